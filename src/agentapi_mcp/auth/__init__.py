"""Access tokens of other people's authorization servers, verified."""

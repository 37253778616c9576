"""Everything that somebody can try across a border: user to user, organisation to organisation, role, scope."""

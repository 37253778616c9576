"""Protocol code shared by backends: HTTP, server-sent events, wire formats, faults."""

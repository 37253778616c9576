"""What backends share of the wire: HTTP, server-sent events, wire formats, faults."""

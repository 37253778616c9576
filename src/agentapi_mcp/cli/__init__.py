"""The command line: each command parses, opens the program, calls one use case, prints."""

"""What the program knows and does, free of any framework: agents, sessions, turns, health, and the ports they need."""

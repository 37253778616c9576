"""How agents are reached: one file per backend in `kinds`, what they share in `wire`."""

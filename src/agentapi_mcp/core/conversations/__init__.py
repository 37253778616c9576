"""Sessions, turns, and the engine that runs them."""

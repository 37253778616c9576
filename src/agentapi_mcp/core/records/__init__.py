"""The nouns that are kept: agents, models, sessions, messages, turns, bills, health."""

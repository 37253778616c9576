"""JSON and Markdown forms of turns, agents, sessions and errors, for every edge."""

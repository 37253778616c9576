"""The tools, a module for each toolset, and how they are declared and called."""

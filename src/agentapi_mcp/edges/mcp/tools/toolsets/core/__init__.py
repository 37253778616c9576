"""The toolset `core`, which most clients need; its tools are listed in the order of its modules' names."""

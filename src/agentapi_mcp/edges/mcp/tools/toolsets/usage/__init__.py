"""The tools of the toolset `usage`: what was spent, and what users say of their conversations."""

"""API keys that users and organisations bring, and asking a user for one."""

"""API keys of users and organisations, and the page where a user enters one."""

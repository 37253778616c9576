"""Principals, their roles and scopes, and the table of what each may do."""

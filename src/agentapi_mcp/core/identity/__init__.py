"""Principals, roles, scopes and the permission table."""

"""Accounts, memberships, sign-ins and personal tokens."""

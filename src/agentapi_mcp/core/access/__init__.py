"""Who gets in: accounts, memberships, sign-ins, personal tokens."""

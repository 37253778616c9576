"""Verification of external access tokens, sign-in at issuers, and encryption of stored secrets."""

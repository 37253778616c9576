"""Accounts that users connect at providers: OAuth tokens kept sealed, renewed before they expire."""

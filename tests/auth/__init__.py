"""Access tokens, by issuers that are real HTTP servers."""

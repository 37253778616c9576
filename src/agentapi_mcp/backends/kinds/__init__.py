"""The backend kinds: one module each, named like the kind; other modules do not belong here."""

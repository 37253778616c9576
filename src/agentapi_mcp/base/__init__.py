"""What everything else stands on: clock, ids, errors, money, text, validation, concurrency, sealing."""

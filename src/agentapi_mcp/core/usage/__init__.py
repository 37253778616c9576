"""What was used and what it cost, from the ledger and its sums by day."""

"""Budgets: what may be spent, what is left of it, and what a turn may cost."""

"""The contract of a backend: what it is asked, what it answers, what it can."""

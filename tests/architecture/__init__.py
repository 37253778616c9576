"""The checks of the design: what is said in prose and can be checked is a test."""

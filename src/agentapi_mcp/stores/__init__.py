"""Storage: Postgres is the source of truth; Redis, memory and files serve caches, events and configuration."""

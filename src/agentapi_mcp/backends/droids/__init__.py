"""What the backend `droid` is made of: the dialect of the Droid CLI, and its processes."""

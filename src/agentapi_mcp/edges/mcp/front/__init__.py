"""The front of the server over stdio: it answers what is the same for everybody while the server is being imported."""

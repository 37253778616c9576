"""What speaks to the outside: each edge translates one protocol into calls of use cases."""

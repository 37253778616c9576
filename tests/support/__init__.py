"""What tests share: builders, hosts, and peers that talk like a backend."""

"""The public conformance suite against the product's own application."""

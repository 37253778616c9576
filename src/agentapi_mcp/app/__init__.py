"""The composition root: the one place that names concrete stores, backends and authenticators."""

"""The program put together: the one place that names concrete classes of stores, backends and sign-in."""

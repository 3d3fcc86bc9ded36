"""The method table: every method from the same start."""

"""A training run: configuration, module, callbacks, resume."""

"""The distillation methods, one a file; `build` turns a configuration into the one that is wanted."""

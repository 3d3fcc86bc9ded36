"""The distillation methods, one per file; `build` turns a configuration into the one that is wanted."""

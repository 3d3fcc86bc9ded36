"""Tables of speed and of distillation methods."""

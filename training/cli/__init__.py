"""The command bevdistill and its settings."""

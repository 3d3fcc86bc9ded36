"""Pages that open offline: their skeleton and style, and plots drawn into them."""

"""Pictures: frames with boxes, maps of features, two students side by side."""

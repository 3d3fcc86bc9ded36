"""What a running system shows: its graph, topics and parameters."""

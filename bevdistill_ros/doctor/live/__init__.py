"""What a running system tells: its graph, streams, topics and parameters."""

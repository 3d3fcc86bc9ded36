"""The node under load, and for long under faults."""

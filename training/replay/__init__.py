"""Bags: write, read, play into the live node, score."""

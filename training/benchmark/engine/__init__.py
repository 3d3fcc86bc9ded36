"""Engines of a bundle against each other on this machine."""

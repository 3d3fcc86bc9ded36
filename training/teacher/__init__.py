"""LiDAR teachers."""

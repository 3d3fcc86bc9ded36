"""Scores of results files by distance, region and scene, beside the official one."""

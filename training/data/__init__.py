"""Data sets in nuScenes format, real or synthetic, as batches."""

"""A small synthetic world, written to disk in nuScenes format."""

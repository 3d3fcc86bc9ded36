"""Recordings of any vehicle, as a data set in nuScenes format."""

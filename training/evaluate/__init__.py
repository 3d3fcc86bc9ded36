"""Detections to official nuScenes metrics."""

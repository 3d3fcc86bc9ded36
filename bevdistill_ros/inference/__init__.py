"""Weights to detections: bundle, engine, memory."""

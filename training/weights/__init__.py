"""Weights on disk: checkpoints, backbones, other people's files."""

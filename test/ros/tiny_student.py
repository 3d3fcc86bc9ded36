"""The tiny student of the tests: every part of a real one, as small as it goes."""

from typing import Any

from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.model.config import StudentConfig


def tiny_config(**changes: Any) -> StudentConfig:
    """Settings of a student of some thousand weights; keywords change some of them."""
    settings: dict[str, Any] = {
        "grid": BevGrid(rows=4, cols=4),
        "image_height": 32,
        "image_width": 64,
        "backbone": "resnet18",
        "backbone_width": 4,
        "frozen_stages": 0,
        "first_stride": 32,
        "num_levels": 1,
        "embed_dim": 8,
        "num_heads": 2,
        "feedforward_dim": 8,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "num_queries": 4,
    }
    return StudentConfig(**settings | changes)

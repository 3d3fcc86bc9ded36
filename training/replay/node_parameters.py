"""Parameters of the detector for a bag."""

from pathlib import Path
from typing import Any

from training.bag.read_bag import Bag
from training.bag.rig import frames_of
from training.replay.config import Setup


def node_parameters(setup: Setup, bag: Bag) -> dict[str, Any]:
    """Parameters by their full names; all detections are published, as offline evaluation scores them all."""
    config = setup.config
    parameters: dict[str, Any] = {
        "bundle": str(Path(config.bundle).absolute()),
        "device": config.device,
        "precision": config.precision,
        "cameras": list(setup.cameras),
        **setup.layout.node_parameters(),
        "sync.reference_camera": setup.reference_camera,
        "sync.max_spread_ms": setup.max_spread_ms,
        "score_threshold": 0.0,
    }
    if not setup.layout.odometry and not moves_on_tf(bag, setup):
        parameters["ego_motion.source"] = "none"
    return parameters | config.parameters


def moves_on_tf(bag: Bag, setup: Setup) -> bool:
    """Whether the bag has the motion of the vehicle on /tf."""
    return setup.base_frame in frames_of(bag, setup.layout).moving

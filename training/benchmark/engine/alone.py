"""An engine on made frames, as a vehicle would give them to it, and its own time at the pace of cameras."""

import time

import numpy as np
import torch

from bevdistill_ros.core.records import CameraFrame
from bevdistill_ros.inference.bundle import Bundle
from bevdistill_ros.inference.engine import Engine

_SECONDS_BETWEEN = 0.1  # of the frames
_FIRING = 0.05  # [s] from the first camera of a set to the last


def made_frame(bundle: Bundle, number: int, *, speed: float = 10.0) -> CameraFrame:
    """A frame of noise in the rig of the training, of a vehicle that drives straight on.

    The cameras fire one after the other, so that in a moving vehicle their places in the ego frame differ from frame to
    frame, and with them what they see; as in the node.

    Args:
        bundle: Of the engine.
        number: Of the frame.
        speed: Of the vehicle [m/s]; at 0 all frames have one rig.
    """
    rig = bundle.manifest.rig
    generator = torch.Generator().manual_seed(number % 4)
    pose = torch.eye(4, dtype=torch.float64)
    pose[0, 3] = speed * _SECONDS_BETWEEN * number
    moved = rig.ego_from_camera.double().clone()
    moved[:, 0, 3] += speed * (_FIRING + 1e-4 * (number % 10)) * torch.linspace(-1, 0, len(rig.names))
    return CameraFrame(
        stamp_ns=round(number * _SECONDS_BETWEEN * 1e9),
        images=torch.randint(0, 256, (len(rig.names), 3, *rig.image_size), generator=generator, dtype=torch.uint8),
        rig=type(rig)(names=rig.names, intrinsics=rig.intrinsics, ego_from_camera=moved, image_size=rig.image_size),
        global_from_ego=pose,
        valid=torch.ones(len(rig.names), dtype=torch.bool),
    )


def own_ms(engine: Engine, frames: list[CameraFrame], *, rate_hz: float, warm_up: int = 2) -> float:
    """Median time of the engine's inference stage [ms], given frames at a rate.

    A process that pauses between frames, as a node between sets, finds cold caches and a slower clock.
    """
    times, start = [], time.perf_counter()
    for number, frame in enumerate(frames):
        time.sleep(max(0.0, start + number / rate_hz - time.perf_counter()))
        engine.infer(frame)
        times.append(engine.stage_ms["inference"])
    return float(np.median(times[warm_up:]))

"""Decoded images and calibration to the frame that the engine takes."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bevdistill_ros.core.records import CameraFrame
from bevdistill_ros.core.rig import CameraRig
from bevdistill_ros.model.fit import ImageTarget as ImageTarget  # for the node, which reaches the model through here
from bevdistill_ros.model.preprocess import Map, preprocess

STEADY = np.array([0.0, 0.0, 9.81])  # [m/s2] what an accelerometer measures at constant speed on a level road


def motion_from_twist(twist: np.ndarray | None) -> Tensor | None:
    """Ego motion of a `CameraFrame` (9,) from a twist (6,) [m/s, rad/s], linear and angular in the ego frame.

    A twist says nothing of acceleration; it is that of a steady drive, gravity, as an accelerometer measures it. None
    where the twist is unknown.
    """
    if twist is None:
        return None
    return torch.from_numpy(np.concatenate([STEADY, twist[3:], twist[:3]])).float()


def frame_from_images(
    images: Sequence[np.ndarray | None],
    *,
    stamp_ns: int,
    names: Sequence[str],
    intrinsics: np.ndarray,
    sizes: Sequence[tuple[int, int]],
    ego_from_camera: np.ndarray,
    global_from_ego: np.ndarray,
    target: ImageTarget,
    mountings: np.ndarray | None = None,
    out: Tensor | None = None,
    run: Map = map,
) -> CameraFrame:
    """Preprocess the images of a set and put them beside their rig.

    Args:
        images: One (h, w, 3) uint8 RGB array per camera, or None for a camera that is missing.
        stamp_ns: Reference stamp of the set [ns].
        names: Camera names.
        intrinsics: (N, 3, 3) [px] of images of the nominal sizes.
        sizes: Nominal height and width [px] of each camera.
        ego_from_camera: (N, 4, 4) [m] at the reference stamp.
        global_from_ego: (4, 4) [m] at the reference stamp.
        target: What the network takes.
        mountings: (N, 4, 4) [m] as the cameras are fixed to the vehicle, without ego motion, so that the crop does not
            move with it; None: as `ego_from_camera`.
        out: Takes the images of the frame, which holds them no longer than that; see `preprocess`.
        run: How to go through the cameras; see `preprocess`.

    Raises:
        ValueError: The counts differ, or an image does not fit its calibration.
    """
    pixels, scaled, valid = preprocess(
        images,
        torch.from_numpy(intrinsics),
        torch.from_numpy(np.asarray(ego_from_camera if mountings is None else mountings, dtype=np.float64)),
        sizes,
        target=target,
        out=out,
        run=run,
    )
    rig = CameraRig(
        names=tuple(names),
        intrinsics=scaled,
        ego_from_camera=torch.from_numpy(np.asarray(ego_from_camera, dtype=np.float64)),
        image_size=target.size,
    )
    pose = torch.from_numpy(np.asarray(global_from_ego, dtype=np.float64))
    return CameraFrame(stamp_ns=stamp_ns, images=pixels, rig=rig, global_from_ego=pose, valid=valid)

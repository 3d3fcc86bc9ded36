"""The cameras of a bag: intrinsics from camera_info, mountings from the transforms.

Mountings are fixed, whether they come on /tf_static or are repeated on /tf, as converted bags of ROS 1 do. Names of
frames have no leading slash. A camera_info without a frame belongs to the frame of its images.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch

from bevdistill_ros.core.rig import VehicleRig
from bevdistill_ros.interface.topic_guess import CAMERA_INFO, ODOMETRY
from bevdistill_ros.interface.topics import COMPRESSED_IMAGE, RAW_IMAGE, TopicMap
from training.bag import messages
from training.bag.read_bag import Bag, BagError
from training.bag.write_bag import BASE_FRAME

_MAX_TRANSFORMS = 5000  # messages of /tf that are looked through; a mounting is repeated long before
_MOVES_M = 1e-4  # a transform that changes by more is no mounting
_USUAL_BASES = ("base_footprint", "base_link")
_RIG_FILE = "give the parameters rig_file (mountings and camera matrices) and intrinsics: rig_file"


@dataclass(frozen=True, kw_only=True)
class Frames:
    """The frames of a bag."""

    fixed: dict[str, tuple[str, np.ndarray]]  # child: parent, parent_from_child (4, 4) [m]
    moving: dict[str, str]  # child: parent
    odometry_child: str = ""  # whose pose the odometry gives

    def ancestors(self, frame: str) -> list[str]:
        """The frame, what it is fixed to, what that is fixed to, and so on."""
        chain = [frame]
        while chain[-1] in self.fixed and len(chain) <= len(self.fixed):
            chain.append(self.fixed[chain[-1]][0])
        return chain

    def transform(self, frame: str, base_frame: str) -> np.ndarray | None:
        """base_from_frame (4, 4) [m]; None where the frames are not connected."""
        chain = self.ancestors(frame)
        if base_frame not in chain:
            return None
        base_from_frame = np.eye(4)
        for child in chain[: chain.index(base_frame)]:
            base_from_frame = self.fixed[child][1] @ base_from_frame
        return base_from_frame

    def base_frame(self, cameras: Sequence[str]) -> str:
        """The frame of the vehicle that these camera frames are fixed to; empty where it is not certain."""
        chains = [self.ancestors(frame) for frame in cameras]
        common = [frame for frame in (chains[0] if chains else []) if all(frame in chain[1:] for chain in chains)]
        wanted = [frame for frame in (self.odometry_child, *_USUAL_BASES) if frame in common]
        moved = [frame for frame in common if frame in self.moving]
        return next(iter(wanted or moved or (common if len(common) == 1 else [])), "")


def frames_of(bag: Bag, layout: TopicMap) -> Frames:
    """The frames that a bag connects.

    Raises:
        BagError: The bag is damaged.
    """
    fixed: dict[str, tuple[str, np.ndarray]] = {}
    moving: dict[str, str] = {}
    if _holds(bag, layout.tf, messages.TRANSFORMS_TYPE):
        for _, edges in islice(bag.decoded(layout.tf, messages.TRANSFORMS_TYPE, _edges), _MAX_TRANSFORMS):
            for child, parent, matrix in edges:
                known = fixed.setdefault(child, (parent, matrix))
                if known[0] != parent or np.abs(known[1] - matrix).max() > _MOVES_M:
                    moving[child] = parent
    fixed = {child: edge for child, edge in fixed.items() if child not in moving}
    if _holds(bag, layout.tf_static, messages.TRANSFORMS_TYPE):
        for _, edges in bag.decoded(layout.tf_static, messages.TRANSFORMS_TYPE, _edges):
            fixed.update({child: (parent, matrix) for child, parent, matrix in edges})
    child = ""
    if _holds(bag, layout.odometry, ODOMETRY):
        child = _first(bag, layout.odometry, lambda content: content.child_frame_id.lstrip("/")) or ""
    return Frames(fixed=fixed, moving=moving, odometry_child=child)


def camera_frame(bag: Bag, layout: TopicMap, camera: str) -> str:
    """Frame of a camera by its camera_info, or by its images where that names none; empty where neither does."""
    for topic in (layout.camera_info_topic(camera), layout.image_topic(camera)):
        if _holds(bag, topic, CAMERA_INFO, COMPRESSED_IMAGE, RAW_IMAGE):
            frame = _first(bag, topic, lambda content: content.header.frame_id.lstrip("/"))
            if frame:
                return str(frame)
    return ""


def rig_of(bag: Bag, layout: TopicMap, cameras: Sequence[str], *, base_frame: str = "") -> VehicleRig:
    """The cameras of a bag.

    Args:
        bag: The bag.
        layout: Where it keeps its topics.
        cameras: Names of the cameras.
        base_frame: Frame of the vehicle; empty: that of the layout, or base_link.

    Raises:
        BagError: A camera's calibration or mounting is missing.
    """
    check_calibrated(bag, layout, cameras)
    frames, base_frame = frames_of(bag, layout), base_frame or layout.base_frame or BASE_FRAME
    intrinsics, mountings, sizes = [], [], []
    for camera in cameras:
        topic = layout.camera_info_topic(camera)
        first = next(bag.decoded(topic, CAMERA_INFO, _intrinsics_of), None)
        if first is None:
            raise BagError(f"{bag.path} has no usable calibration of {camera}: all of {topic} is damaged")
        matrix, size = first[1]
        intrinsics.append(matrix)
        sizes.append(size)
        mountings.append(_mounting(bag, layout, frames, camera, base_frame))
    return VehicleRig(
        names=tuple(cameras),
        intrinsics=torch.from_numpy(np.stack(intrinsics)),
        ego_from_camera=torch.from_numpy(np.stack(mountings)),
        image_sizes=tuple(sizes),
    )


def check_calibrated(bag: Bag, layout: TopicMap, cameras: Sequence[str], *, has_mountings: bool = False) -> None:
    """Raise BagError unless the bag holds intrinsics of these cameras, and mountings unless a rig file has them."""
    lacking = [camera for camera in cameras if not bag.counts.get(layout.camera_info_topic(camera))]
    if lacking:
        topic = layout.camera_info_topic(lacking[0])
        what = f"{topic} is missing or empty" if topic else "the topic map names no camera_info"
        raise BagError(f"{bag.path} has no calibration of {', '.join(lacking)}: {what}; {_RIG_FILE}")
    if not has_mountings and not any(bag.counts.get(topic) for topic in (layout.tf_static, layout.tf)):
        raise BagError(
            f"{bag.path} has no {layout.tf_static}, so where the cameras sit is not known; give a rig file "
            "(parameter rig_file)"
        )


def _mounting(bag: Bag, layout: TopicMap, frames: Frames, camera: str, base_frame: str) -> np.ndarray:
    frame = camera_frame(bag, layout, camera) or (camera if camera in frames.fixed else "")
    if not frame:
        raise BagError(
            f"{bag.path}: neither camera_info nor images of {camera} name a frame; give the parameter rig_file"
        )
    mounting = frames.transform(frame, base_frame)
    if mounting is not None:
        return mounting
    reason = f"{layout.tf_static} does not connect '{frame}' to '{base_frame}'"
    other = frames.base_frame([frame])
    hint = f"; they connect it to '{other}': give the parameter base_frame: {other}" if other else "; give rig_file"
    raise BagError(f"{bag.path}: {reason}{hint}")


def _intrinsics_of(info: Any) -> tuple[np.ndarray, tuple[int, int]]:
    """Matrix (3, 3) [px], height and width [px] of a CameraInfo."""
    matrix = np.asarray(info.k, dtype=np.float64).reshape(3, 3)
    if not np.isfinite(matrix).all() or matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
        raise ValueError(f"the camera is not calibrated: k is {matrix.ravel().tolist()}")
    return matrix, (int(info.height), int(info.width))


def _first(bag: Bag, topic: str, convert: Callable[[Any], Any]) -> Any:
    """What the first usable message of a topic holds; None where there is none."""
    found = next(bag.decoded(topic, convert=convert), None)
    return found[1] if found else None


def _holds(bag: Bag, topic: str, *kinds: str) -> bool:
    """Whether a bag has messages of one of these types on a topic."""
    return bag.counts.get(topic, 0) > 0 and bag.topics[topic] in kinds


def _edges(content: Any) -> list[tuple[str, str, np.ndarray]]:
    """Child, parent, parent_from_child (4, 4) of a TFMessage."""
    edges = [
        (
            entry.child_frame_id.lstrip("/"),
            entry.header.frame_id.lstrip("/"),
            messages.matrix_of(entry.transform.translation, entry.transform.rotation),
        )
        for entry in content.transforms
    ]
    for child, parent, matrix in edges:
        if not np.isfinite(matrix).all():
            raise ValueError(f"the transform of {child} in {parent} is not finite")
    return edges

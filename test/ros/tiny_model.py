"""A tiny model of three cameras, pictures for it, and what it finds in them without any ROS."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from tiny_student import tiny_config

from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.core.records import Detections
from bevdistill_ros.core.rig import CameraRig
from bevdistill_ros.inference.bundle import load_bundle, save_bundle
from bevdistill_ros.inference.decode import decode_image
from bevdistill_ros.inference.engine import Engine
from bevdistill_ros.inference.engine_choice import EngineChoice
from bevdistill_ros.inference.frame import frame_from_images
from bevdistill_ros.model.bevformer import BevFormer

CAMERAS = ("LEFT", "FRONT", "RIGHT")
DIRECTIONS = {"LEFT": 60.0, "FRONT": 0.0, "RIGHT": -60.0}  # [degrees]
OFFSETS_MS = {"LEFT": -10, "FRONT": 0, "RIGHT": 10}
SIZE = (64, 96)  # height, width [px] of the images
INPUT = (32, 48)  # of the network
MS = 1_000_000
SPEED = 5.0  # [m/s] along x, of the odometry


def tiny_rig(size: tuple[int, int], cameras: Sequence[str] = CAMERAS) -> CameraRig:
    """Cameras of 80 degrees, side by side."""
    focal = 0.6 * size[1]
    matrix = [[focal, 0.0, size[1] / 2 - 0.5], [0.0, focal, size[0] / 2 - 0.5], [0.0, 0.0, 1.0]]
    mountings = []
    for camera in cameras:
        angle = np.deg2rad(DIRECTIONS[camera])
        pose = np.eye(4)
        pose[:3, :3] = [[np.sin(angle), 0, np.cos(angle)], [-np.cos(angle), 0, np.sin(angle)], [0, -1, 0]]
        pose[:3, 3] = [1.0, 0.0, 1.5]
        mountings.append(pose)
    return CameraRig(
        names=tuple(cameras),
        intrinsics=torch.tensor([matrix] * len(mountings), dtype=torch.float64),
        ego_from_camera=torch.from_numpy(np.stack(mountings)),
        image_size=size,
    )


def write_bundle(path: Path, cameras: Sequence[str] = CAMERAS) -> Path:
    """A bundle of random weights."""
    torch.manual_seed(0)
    config = tiny_config(
        grid=BevGrid(rows=8, cols=8),
        cameras=tuple(cameras),
        image_height=INPUT[0],
        image_width=INPUT[1],
        backbone_width=8,
        backbone_norm="batch",
        first_stride=16,
        embed_dim=16,
        feedforward_dim=16,
        num_queries=8,
        temporal=True,
    )
    student = BevFormer(config)
    # A fresh student gives every image the same boxes.
    for parameter in student.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    save_bundle(path, student, name="tiny", version="1", rig=tiny_rig(INPUT, cameras), provenance={})
    return path


def picture(seed: int) -> np.ndarray:
    """A picture (64, 96, 3) like no other."""
    noise = np.random.default_rng(seed).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(noise, SIZE[::-1], interpolation=cv2.INTER_CUBIC))


def jpeg_of(seed: int) -> bytes:
    """The picture as a JPEG."""
    return bytes(cv2.imencode(".jpg", picture(seed))[1].tobytes())


def decoded(seed: int) -> np.ndarray:
    """The picture as the node decodes its JPEG."""
    return decode_image(jpeg_of(seed), nominal_width=SIZE[1], width=INPUT[1])


def position(stamp: int) -> float:
    """Where the vehicle is at a stamp [m], along x."""
    return SPEED * ((stamp // MS) % 1_000_000_000) / 1e3


def offline(
    bundle: Path,
    rounds: Sequence[tuple[int, Sequence[np.ndarray | None]]],
    *,
    anchor: str = "FRONT",
    cameras: Sequence[str] = CAMERAS,
    rig: CameraRig | None = None,
    moves: bool = True,
) -> list[Detections]:
    """What the engine finds in these rounds, one after the other, without any ROS.

    Args:
        bundle: The bundle.
        rounds: Stamp [ns] and an image a camera.
        anchor: Whose stamps the sets have, where it is there; else the middle one of those that are.
        cameras: Names of the cameras.
        rig: The rig, for images of its size; that of the vehicle if None.
        moves: Whether the vehicle's motion is known.
    """
    engine = Engine(load_bundle(bundle), EngineChoice(device="cpu"))
    rig = rig or tiny_rig(SIZE, cameras)
    found = []
    for stamp, images in rounds:
        mountings = rig.ego_from_camera.numpy().copy()
        pose = np.eye(4)
        there = [name for name, image in zip(cameras, images, strict=True) if image is not None]
        first = anchor if anchor in there else there[len(there) // 2]
        if moves:
            pose[0, 3] = position(stamp)
            for mounting, name, image in zip(mountings, cameras, images, strict=True):
                if image is not None:
                    mounting[0, 3] += position(stamp + (OFFSETS_MS[name] - OFFSETS_MS[first]) * MS) - position(stamp)
        frame = frame_from_images(
            images,
            stamp_ns=stamp,
            names=cameras,
            intrinsics=rig.intrinsics.numpy(),
            sizes=[rig.image_size] * len(cameras),
            ego_from_camera=mountings,
            mountings=rig.ego_from_camera.numpy(),
            global_from_ego=pose,
            target=engine.config.images,
        )
        found.append(engine.infer(frame))
    return found


def assert_same(message: Any, detections: Detections) -> None:
    """Whether a message holds exactly these detections."""
    assert len(message.detections) == len(detections.scores) > 0
    for element, box, score in zip(message.detections, detections.boxes, detections.scores, strict=True):
        place = element.pose.position
        assert element.score == pytest.approx(float(score), abs=1e-6)
        found = [place.x, place.y, place.z, element.size.x, element.velocity.x, element.velocity.y]
        np.testing.assert_allclose(found, box[[0, 1, 2, 3, 7, 8]], atol=1e-4)

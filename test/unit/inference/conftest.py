"""A tiny student, the rig it was trained with, and frames of that rig."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.core.records import CameraFrame
from bevdistill_ros.core.rig import CameraRig
from bevdistill_ros.inference.bundle import Bundle
from bevdistill_ros.inference.manifest import Manifest
from bevdistill_ros.model.bevformer import BevFormer
from bevdistill_ros.model.config import StudentConfig

CAMERAS = ("FRONT", "BACK")
SIZE = (32, 64)


def rig_of() -> CameraRig:
    poses = torch.eye(4, dtype=torch.float64).repeat(2, 1, 1)
    for pose, sign in zip(poses, (1.0, -1.0), strict=True):
        pose[:3, :3] = torch.tensor([[0.0, 0.0, sign], [-sign, 0.0, 0.0], [0.0, -1.0, 0.0]])
        pose[:3, 3] = torch.tensor([sign, 0.0, 1.5])
    matrix = torch.tensor([[40.0, 0.0, 31.5], [0.0, 40.0, 15.5], [0.0, 0.0, 1.0]], dtype=torch.float64)
    return CameraRig(names=CAMERAS, intrinsics=matrix.repeat(2, 1, 1), ego_from_camera=poses, image_size=SIZE)


@pytest.fixture
def rig() -> CameraRig:
    return rig_of()


@pytest.fixture
def make_student() -> Callable[..., BevFormer]:
    """Makes a tiny student in evaluation mode; keywords change its settings."""

    def make(**changes: Any) -> BevFormer:
        settings: dict[str, Any] = {
            "grid": BevGrid(rows=8, cols=10),
            "cameras": CAMERAS,
            "image_height": SIZE[0],
            "image_width": SIZE[1],
            "backbone": "resnet18",
            "backbone_width": 4,
            "backbone_norm": "batch",
            "frozen_stages": 0,
            "num_levels": 2,
            "embed_dim": 16,
            "num_heads": 2,
            "feedforward_dim": 16,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "num_queries": 20,
        }
        torch.manual_seed(0)
        student = BevFormer(StudentConfig(**{**settings, **changes})).eval()
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        return student

    return make


@pytest.fixture
def make_bundle(make_student: Callable[..., BevFormer]) -> Callable[..., Bundle]:
    """Makes a bundle in memory; keywords change the student's settings."""

    def make(**changes: Any) -> Bundle:
        student = make_student(**changes)
        manifest = Manifest(
            name="tiny",
            version="3",
            student=student.config,
            rig=rig_of(),
            weights_file="weights.safetensors",
            weights_sha256="",
            provenance={},
        )
        return Bundle(manifest=manifest, student=student)

    return make


def pose_at(x: float) -> Tensor:
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, 3] = torch.tensor([1000.0 + x, 500.0, 2.0])
    return pose


@pytest.fixture
def make_frame() -> Callable[..., CameraFrame]:
    """Makes random frames of a vehicle that drives at 4 m/s."""

    def make(seconds: float = 0.0, *, seed: int | None = None, **changes: Any) -> CameraFrame:
        generator = torch.Generator().manual_seed(math.floor(10 * seconds) if seed is None else seed)
        fields: dict[str, Any] = {
            "stamp_ns": 10**18 + round(seconds * 1e9),
            "images": torch.randint(0, 256, (2, 3, *SIZE), generator=generator, dtype=torch.uint8),
            "rig": rig_of(),
            "global_from_ego": pose_at(4.0 * seconds),
            "valid": torch.ones(2, dtype=torch.bool),
        }
        return CameraFrame(**{**fields, **changes})

    return make

"""A tiny student and camera rings around it, different for each batch item."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bevdistill_ros.core.geometry import invert_rigid
from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.model.bevformer import BevFormer
from bevdistill_ros.model.config import StudentConfig
from bevdistill_ros.model.records import CameraInput

CAMERAS = ("FRONT", "LEFT", "BACK")
# More columns than rows, and not centred on the ego, so that a mix-up of the axes or of the centre shows.
GRID = BevGrid(x_min=-8.0, x_max=16.0, y_min=-6.0, y_max=10.0, rows=8, cols=12)


def camera_pose(yaw: float, place: tuple[float, float, float]) -> Tensor:
    """ego_from_camera (4, 4) float64 of a camera that looks level along `yaw` [rad]."""
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, 0] = torch.tensor([math.sin(yaw), -math.cos(yaw), 0.0])
    pose[:3, 1] = torch.tensor([0.0, 0.0, -1.0])
    pose[:3, 2] = torch.tensor([math.cos(yaw), math.sin(yaw), 0.0])
    pose[:3, 3] = torch.tensor(place)
    return pose


def config_of(**changes: Any) -> StudentConfig:
    settings: dict[str, Any] = {
        "grid": GRID,
        "cameras": CAMERAS,
        "image_height": 32,
        "image_width": 64,
        "backbone": "resnet18",
        "backbone_width": 4,
        "backbone_norm": "batch",
        "frozen_stages": 0,
        "first_stride": 4,
        "num_levels": 2,
        "embed_dim": 16,
        "num_heads": 2,
        "feedforward_dim": 24,
        "encoder_layers": 2,
        "num_heights": 3,
        "points_per_height": 2,
        "bev_points": 2,
        "decoder_layers": 2,
        "decoder_points": 2,
        "num_queries": 12,
        "dropout": 0.0,
    }
    return StudentConfig(**{**settings, **changes})


@pytest.fixture
def grid() -> BevGrid:
    return GRID


@pytest.fixture
def make_config() -> Callable[..., StudentConfig]:
    """Makes settings of a tiny student; keywords change some."""
    return config_of


@pytest.fixture
def shake() -> Callable[[nn.Module], None]:
    """Moves all parameters off their start, where zeros would hide mistakes."""

    def move(module: nn.Module) -> None:
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))

    return move


@pytest.fixture
def make_student(shake: Callable[[nn.Module], None]) -> Callable[..., BevFormer]:
    """Makes a tiny student in evaluation mode with all parameters off their start."""

    def make(**changes: Any) -> BevFormer:
        torch.manual_seed(0)
        student = BevFormer(config_of(**changes))
        shake(student)
        return student.eval()

    return make


@pytest.fixture
def make_cameras() -> Callable[..., CameraInput]:
    """Makes random frames; the rigs and poses of the items differ. Cameras overlap below a focal length of 0.29."""

    def make(
        batch: int = 2, *, seed: int = 0, height: int = 32, width: int = 64, focal_share: float = 0.5
    ) -> CameraInput:
        generator = torch.Generator().manual_seed(seed)
        projections, poses = [], []
        for item in range(batch):
            rows = []
            for index in range(len(CAMERAS)):
                matrix = torch.eye(4, dtype=torch.float64)
                focal = width * (focal_share + 0.2 * item)
                matrix[:2, :3] = torch.tensor([[focal, 0.0, (width - 1) / 2], [0.0, focal, (height - 1) / 2]])
                pose = camera_pose(2 * math.pi * index / len(CAMERAS) + 0.4 * item, (0.5, -0.2, 1.5))
                rows.append(matrix @ invert_rigid(pose))
            projections.append(torch.stack(rows))
            yaw = 0.3 * item + 0.05 * seed
            pose = torch.eye(4, dtype=torch.float64)
            pose[:2, :2] = torch.tensor([[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]])
            pose[:3, 3] = torch.tensor([400.0 + 1.5 * seed, 1000.0 - 0.8 * seed * item, 3.0])
            poses.append(pose)
        shape = (batch, len(CAMERAS), 3, height, width)
        return CameraInput(
            images=torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8),
            image_from_ego=torch.stack(projections).float(),
            valid=torch.ones(batch, len(CAMERAS), dtype=torch.bool),
            global_from_ego=torch.stack(poses),
        )

    return make

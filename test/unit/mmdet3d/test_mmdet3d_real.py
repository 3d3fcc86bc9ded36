"""Ground truth of recorded nuScenes frames through mmdet3d's own encoding and decoding, and back."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bevdistill_ros.core.boxes import decode_boxes, transform_boxes, wrap_angle
from bevdistill_ros.core.geometry import invert_rigid, project_points
from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.model.fit import ImageTarget
from training.data.dataset import NuScenesDataset
from training.data.index.load import DataConfig, load_index
from training.data.sample import Sample
from training.teacher.mmdet3d import Mmdet3dTeacher, load_mmdet3d_teacher
from training.teacher.mmdet3d_config import Mmdet3dConfig

pytestmark = [pytest.mark.mmdet3d, pytest.mark.real]


@pytest.fixture(scope="module")
def samples(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    config = DataConfig(
        root=shared_data / "nuscenes-real", version="v1.0-real", cache_dir=tmp_path_factory.mktemp("cache")
    )
    dataset = NuScenesDataset(load_index(config), "real_val", target=ImageTarget(height=450, width=800))
    return [dataset[number] for number in range(len(dataset))]


def perfect_answer(teacher: Mmdet3dTeacher, sample: Sample) -> tuple[tuple[list[dict[str, Tensor]], ...], Tensor]:
    """What a perfect head would give for a frame, as mmdet3d's own targets say; and which boxes can be distinguished.

    Two objects of one task in one cell cannot, nor can those whose centres lie off the map.
    """
    from mmdet3d.structures import LiDARInstance3DBoxes
    from mmengine.structures import InstanceData

    head = teacher.detector.pts_bbox_head
    boxes = transform_boxes(invert_rigid(sample.ego_from_lidar), sample.boxes.double()).float()
    # mmdet3d takes x y z of the bottom, then the same as we do.
    bottom = torch.cat([boxes[:, :2], boxes[:, 2:3] - boxes[:, 5:6] / 2, boxes[:, 3:]], dim=1)
    truth = InstanceData(bboxes_3d=LiDARInstance3DBoxes(bottom, box_dim=9), labels_3d=sample.labels)
    answer, cells, tasks = [], ((boxes[:, :2] + 51.2) / 0.8).floor(), torch.zeros_like(sample.labels)
    first = 0
    for number, parts in enumerate(zip(*head.get_targets_single(truth), strict=True)):
        heatmap, targets, index, mask = parts
        maps = torch.zeros(10, 128 * 128)
        maps[:, index[mask.bool()]] = targets[mask.bool()].T
        maps = maps.view(1, 10, 128, 128)
        names = {"reg": (0, 2), "height": (2, 3), "dim": (3, 6), "rot": (6, 8), "vel": (8, 10)}
        task = {name: maps[:, low:high] for name, (low, high) in names.items()}
        answer.append([{"heatmap": heatmap[None].clamp(1e-4, 1 - 1e-4).logit(), **task}])
        tasks[(sample.labels >= first) & (sample.labels < first + len(heatmap))] = number
        first += len(heatmap)
    places = torch.cat([tasks[:, None], cells.long()], dim=1)
    alone = (places[:, None] == places).all(dim=-1).sum(dim=1) == 1
    inside = ((cells >= 0) & (cells < 128)).all(dim=1)
    return tuple(answer), alone & inside


@pytest.mark.parametrize("frame", [0, 1])
def test_ground_truth_comes_back_as_it_was(
    samples: list[Sample], centerpoint: Any, monkeypatch: pytest.MonkeyPatch, frame: int
) -> None:
    # Single frames know no velocity; the way there and back is the same for any.
    sample = replace(samples[frame], boxes=samples[frame].boxes.nan_to_num(nan=1.5))
    teacher = load_mmdet3d_teacher(Mmdet3dConfig(config=centerpoint.config), centerpoint.checkpoint, grid=BevGrid())
    answer, separable = perfect_answer(teacher, sample)
    assert int(separable.sum()) > 0.6 * len(sample.boxes)
    monkeypatch.setattr(teacher.detector.pts_bbox_head, "forward", lambda _: answer)
    predictions = teacher([sample.points], sample.ego_from_lidar[None]).predictions
    assert predictions is not None
    scores, labels = predictions.logits[0, 0].sigmoid().max(dim=-1)
    found, labels = decode_boxes(predictions.codes[0, 0][scores > 0.999]), labels[scores > 0.999]
    expected, names = sample.boxes[separable], sample.labels[separable]
    distance = torch.cdist(expected[:, :2], found[:, :2]) + 100.0 * (names[:, None] != labels)
    nearest = distance.argmin(dim=1)
    assert nearest.unique().numel() == len(expected)
    error = found[nearest] - expected
    error[:, 6] = wrap_angle(error[:, 6])
    assert float(error[:, :6].abs().max()) < 1e-3  # m
    assert float(error[:, 6].abs().max()) < 1e-3  # rad
    # The LiDAR leans, and velocities have no part along its z, so that a little of them is lost on the way.
    assert float(error[:, 7:].abs().max()) < 2e-3 * max(1.0, float(expected[:, 7:].abs().max()))


@pytest.mark.parametrize("frame", [0, 1])
def test_boxes_lie_on_the_objects_in_the_images(
    samples: list[Sample], centerpoint: Any, monkeypatch: pytest.MonkeyPatch, frame: int
) -> None:
    """The centres of the boxes that came back land on the pixels of the ground truth's, in every camera."""
    sample = samples[frame]
    teacher = load_mmdet3d_teacher(Mmdet3dConfig(config=centerpoint.config), centerpoint.checkpoint, grid=BevGrid())
    answer, separable = perfect_answer(teacher, sample)
    monkeypatch.setattr(teacher.detector.pts_bbox_head, "forward", lambda _: answer)
    predictions = teacher([sample.points], sample.ego_from_lidar[None]).predictions
    assert predictions is not None
    found = decode_boxes(predictions.codes[0, 0])
    seen = 0
    for image_from_ego in sample.cameras.image_from_ego[0]:
        pixels, depth = project_points(image_from_ego.double(), sample.boxes[separable, :3].double())
        others, _ = project_points(image_from_ego.double(), found[:, :3].double())
        visible = (depth > 1) & (pixels >= 0).all(dim=1) & (pixels < torch.tensor([800, 450])).all(dim=1)
        seen += int(visible.sum())
        if visible.any():
            assert float(torch.cdist(pixels[visible], others).min(dim=1).values.max()) < 0.1
    assert seen >= 10


def test_shipped_centerpoint_runs_on_a_recorded_frame(samples: list[Sample], save_shipped: Callable[..., Any]) -> None:
    """The full model: 384 channels, in random weights."""
    detector = save_shipped("centerpoint/centerpoint_pillar02_second_secfpn_8xb4-cyclic-20e_nus-3d.py")
    teacher = load_mmdet3d_teacher(Mmdet3dConfig(config=detector.config), detector.checkpoint, grid=BevGrid())
    with torch.no_grad():
        output = teacher([samples[1].points], samples[1].ego_from_lidar[None])
    assert output.finest.shape == (1, 384, 128, 128)
    assert output.finest.isfinite().all()
    assert output.predictions is not None
    assert output.predictions.codes.shape == (1, 1, 300, 10)
    assert output.predictions.codes.isfinite().all()

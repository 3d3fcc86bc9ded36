from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bevdistill_ros.core.geometry import transform_points
from bevdistill_ros.inference.bundle import load_bundle
from bevdistill_ros.model.config import StudentConfig
from training.benchmark.distillation.inference_cost import ring_frame
from training.data.index.load import DataConfig, load_index
from training.export.run import ExportConfig, run_export, training_rig
from training.run.fit import fit
from training.weights.checkpoint import read_weights


def test_bundle_holds_the_student_and_its_origin(tiny_student: Path, tiny_bundle: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    weights = read_weights(tiny_student)
    assert all(torch.equal(value, weights[name]) for name, value in bundle.student.state_dict().items())
    assert bundle.manifest.student.num_queries == 12
    origin = bundle.manifest.provenance
    assert (origin["distillation"], origin["data"], origin["steps"]) == ("none", "v1.0-tiny/tiny_train", "2")


class _Operations(TorchDispatchMode):
    """Writes down every operation of torch, with the shapes that it takes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, list[tuple[int, ...]]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        shapes = [tuple(value.shape) for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
        self.seen.append((str(func), shapes))
        return func(*args, **(kwargs or {}))


def test_a_distilled_bundle_does_what_a_plain_one_does(
    tiny_bundle: Path, tiny_teacher: Path, make_run: Callable[..., Any], tmp_path: Path
) -> None:
    """The same network, the same tensors by name and shape, and the same operations in the same order."""
    changes = {"distill.method": "bevdistill", "teacher_checkpoint": str(tiny_teacher)}
    checkpoint = fit(make_run(tmp_path / "run", **changes))
    run_export(ExportConfig(checkpoint=str(checkpoint), output=str(tmp_path / "bundle")))
    distilled, plain = load_bundle(tmp_path / "bundle"), load_bundle(tiny_bundle)
    assert distilled.manifest.provenance["distillation"] == "bevdistill"
    assert distilled.manifest.student == plain.manifest.student
    weights, others = distilled.student.state_dict(), plain.student.state_dict()
    assert {name: value.shape for name, value in weights.items()} == {name: v.shape for name, v in others.items()}
    assert not all(torch.equal(value, others[name]) for name, value in weights.items())
    frame = ring_frame(plain.student)
    seen = []
    for bundle in (distilled, plain):
        with torch.inference_mode(), _Operations() as operations:
            bundle.student(frame)
        seen.append(operations.seen)
    assert len(seen[0]) > 100
    assert seen[0] == seen[1]


def test_rig_is_that_of_the_training_data_at_the_size_of_the_student(tiny_bundle: Path, tiny_world: Any) -> None:
    """Native images are 64x36 with focal length 50 and centre (31.5, 17.5); 64x32 loses the four top rows."""
    rig = load_bundle(tiny_bundle).manifest.rig
    assert rig.names == ("CAM_FRONT", "CAM_BACK")
    assert rig.image_size == (32, 64)
    expected = torch.tensor([[50.0, 0.0, 31.5], [0.0, 50.0, 13.5], [0.0, 0.0, 1.0]], dtype=torch.float64)
    assert torch.allclose(rig.intrinsics, expected.expand(2, 3, 3))
    # The vehicle drives 10 m/s ahead; CAM_FRONT fires 40 ms before the reference stamp.
    shift = rig.ego_from_camera[:, :3, 3].numpy() - [tiny_world.ego_from(name)[:3, 3] for name in rig.names]
    assert np.abs(shift).max() < 0.5


def test_mountings_are_taken_where_the_vehicle_moved_least(tiny_world: Any) -> None:
    index = load_index(DataConfig(root=tiny_world.root, version=tiny_world.version, num_sweeps=0))
    student = StudentConfig(cameras=("CAM_FRONT",), image_height=32, image_width=64, first_stride=8, num_levels=2)
    rig = training_rig(index, "tiny_val", student)
    used = [
        number
        for number in index.samples_of("tiny_val")
        if np.allclose(index.ego_from_camera[number, 0], rig.ego_from_camera[0].numpy())
    ]
    moved = {
        int(number): np.linalg.norm(np.diff(index.global_from_ego[[index.previous[number], number], :3, 3], axis=0))
        for number in index.samples_of("tiny_val")
        if index.previous[number] >= 0
    }
    assert min(moved, key=lambda number: float(moved[number])) in used


def test_points_ahead_lie_in_the_front_camera(tiny_bundle: Path) -> None:
    rig = load_bundle(tiny_bundle).manifest.rig
    flat = transform_points(rig.image_from_ego()[0], torch.tensor([[20.0, 0.0, 1.5]], dtype=torch.float64))[0]
    u, v = (flat[:2] / flat[2]).tolist()
    assert 25 < u < 40
    assert 8 < v < 20


def test_teacher_is_no_bundle(tiny_teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds a teacher, but a student is needed"):
        run_export(ExportConfig(checkpoint=str(tiny_teacher), output=str(tmp_path / "bundle")))
    assert not list(tmp_path.iterdir())


def test_data_that_moved_is_asked_for(tiny_student: Path, tiny_world: Any, tmp_path: Path) -> None:
    config = ExportConfig(checkpoint=str(tiny_student), output=str(tmp_path / "bundle"), root=tmp_path / "gone")
    with pytest.raises(ValueError, match=r"there is no data set at .*gone"):
        run_export(config)
    assert not list(tmp_path.iterdir())
    (tmp_path / "moved").symlink_to(tiny_world.root)
    config = ExportConfig(checkpoint=str(tiny_student), output=str(tmp_path / "bundle"), root=tmp_path / "moved")
    assert "bundle: " in run_export(config)
    load_bundle(tmp_path / "bundle")


def test_split_without_a_camera_of_the_student_is_refused(tiny_world: Any) -> None:
    index = load_index(DataConfig(root=tiny_world.root, version=tiny_world.version, num_sweeps=0))
    student = StudentConfig(cameras=("CAM_SIDE",), image_height=32, image_width=64, first_stride=8, num_levels=2)
    with pytest.raises(ValueError, match=r"has all cameras of the student, CAM_SIDE; the data set has CAM_FRONT"):
        training_rig(index, "tiny_val", student)

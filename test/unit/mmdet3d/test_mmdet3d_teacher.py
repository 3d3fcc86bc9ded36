"""The adapter around real detectors of mmdet3d: frames, axes, boxes, classes."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bevdistill_ros.core.boxes import decode_boxes
from bevdistill_ros.core.geometry import invert_rigid, transform_points
from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.core.nuscenes import CLASS_NAMES
from training.teacher.frozen import FrozenTeacher
from training.teacher.load import trained_teacher
from training.teacher.mmdet3d import Mmdet3dTeacher, load_mmdet3d_teacher
from training.teacher.mmdet3d_config import Mmdet3dConfig
from training.teacher.output import TeacherOutput

pytestmark = pytest.mark.mmdet3d

Mounting = Callable[..., Tensor]
POINTPILLARS = "pointpillars/pointpillars_hv_fpn_sbn-all_8xb4-2x_nus-3d.py"
MAP = (128, 128)  # cells of CenterPoint's map, 0.8 m each
NO_OBJECT = -20.0  # logit


def load(detector: Any, *, grid: BevGrid | None = None, num_queries: int = 20) -> Mmdet3dTeacher:
    config = Mmdet3dConfig(config=detector.config, num_queries=num_queries)
    return load_mmdet3d_teacher(config, detector.checkpoint, grid=grid or BevGrid())


def answer(teacher: Mmdet3dTeacher, points: Tensor, mounting: Tensor) -> TeacherOutput:
    with torch.no_grad():
        output: TeacherOutput = teacher([points], mounting[None])
    return output


def boxes_of(output: TeacherOutput, least: float = 0.5) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, scores and labels of the first frame from a score on."""
    assert output.predictions is not None
    scores, labels = output.predictions.logits[0, 0].sigmoid().max(dim=-1)
    kept = scores > least
    return decode_boxes(output.predictions.codes[0, 0][kept]), scores[kept], labels[kept]


def empty_heads(teacher: Mmdet3dTeacher) -> list[dict[str, Tensor]]:
    """What CenterPoint's head gives where nothing is, task by task."""
    sizes = {"reg": 2, "height": 1, "dim": 3, "rot": 2, "vel": 2}
    tasks = []
    for num_classes in teacher.detector.pts_bbox_head.num_classes:
        task = {name: torch.zeros(1, channels, *MAP) for name, channels in sizes.items()}
        tasks.append({"heatmap": torch.full((1, num_classes, *MAP), NO_OBJECT), **task})
    return tasks


def answer_with(monkeypatch: pytest.MonkeyPatch, teacher: Mmdet3dTeacher, tasks: list[dict[str, Tensor]]) -> None:
    """Let the head find what the tasks' maps say; all around it stays mmdet3d's."""
    monkeypatch.setattr(
        teacher.detector.pts_bbox_head,
        "forward",
        lambda _: tuple([{name: value.clone() for name, value in task.items()}] for task in tasks),
    )


class TestBoxes:
    def test_hand_made_box_comes_in_our_convention(
        self, centerpoint: Any, mounting: Mounting, cloud: Tensor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A bus 10.3 m ahead of the ego and 4.1 m to its left, headed left and a little back, its middle 1.6 m up.

        The LiDAR's x is right of the ego and its y ahead; it is mounted 0.8 m ahead and 1.8 m up. So the bus is at
        x = -4.1, y = 9.5, z = -0.2 there: column (-4.1 + 51.2) / 0.8 = 58.875, row (9.5 + 51.2) / 0.8 = 75.875.
        Its heading of 100 degrees from ahead is 190 degrees from the LiDAR's x. It drives 3 m/s along its heading.
        """
        teacher = load(centerpoint)
        heading = math.radians(190)
        tasks = empty_heads(teacher)
        bus = tasks[2]
        bus["heatmap"][0, 0, 75, 58] = 3.0
        bus["reg"][0, :, 75, 58] = torch.tensor([0.875, 0.875])
        bus["height"][0, :, 75, 58] = -0.2
        bus["dim"][0, :, 75, 58] = torch.tensor([11.0, 2.9, 3.2]).log()
        bus["rot"][0, :, 75, 58] = torch.tensor([math.sin(heading), math.cos(heading)])
        bus["vel"][0, :, 75, 58] = 3.0 * torch.tensor([math.cos(heading), math.sin(heading)])
        answer_with(monkeypatch, teacher, tasks)
        boxes, scores, labels = boxes_of(answer(teacher, cloud, mounting()))
        yaw = math.radians(100)
        expected = [10.3, 4.1, 1.6, 11.0, 2.9, 3.2, yaw, 3.0 * math.cos(yaw), 3.0 * math.sin(yaw)]
        torch.testing.assert_close(boxes, torch.tensor([expected]), atol=1e-4, rtol=0)
        assert scores.tolist() == pytest.approx([1 / (1 + math.exp(-3))], abs=1e-6)
        assert labels.tolist() == [CLASS_NAMES.index("bus")]

    def test_missing_boxes_are_filled_up_without_score(
        self, centerpoint: Any, mounting: Mounting, cloud: Tensor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        teacher = load(centerpoint, num_queries=7)
        answer_with(monkeypatch, teacher, empty_heads(teacher))
        predictions = answer(teacher, cloud, mounting()).predictions
        assert predictions is not None
        assert predictions.logits.shape == (1, 1, 7, 10)
        assert predictions.features.shape == (1, 1, 7, teacher.channels)
        assert float(predictions.logits.sigmoid().max()) < 1e-9
        assert predictions.codes.isfinite().all()

    def test_best_boxes_come_first_and_no_more_than_wanted(
        self, centerpoint: Any, mounting: Mounting, cloud: Tensor
    ) -> None:
        many = answer(load(centerpoint, num_queries=40), cloud, mounting())
        few = answer(load(centerpoint, num_queries=5), cloud, mounting())
        _, scores, _ = boxes_of(many, least=0.0)
        assert scores.tolist() == sorted(scores.tolist(), reverse=True)
        assert len(scores) == 40
        assert torch.equal(boxes_of(few, least=0.0)[0], boxes_of(many, least=0.0)[0][:5])

    @pytest.mark.parametrize("task", [0, 1, 2])
    def test_classes_are_mapped_by_name(
        self,
        make_detector: Callable[..., Any],
        mounting: Mounting,
        cloud: Tensor,
        monkeypatch: pytest.MonkeyPatch,
        task: int,
    ) -> None:
        groups = [["pedestrian", "traffic_cone", "bicycle", "motorcycle"], ["truck", "car"], list(CLASS_NAMES[2:6])]
        order = tuple(name for group in groups for name in group)

        def reorder(settings: Any) -> None:
            settings.model.pts_bbox_head.tasks = [{"num_class": len(names), "class_names": names} for names in groups]
            settings.test_dataloader.dataset.metainfo = {"classes": list(order)}

        teacher = load(make_detector(change=reorder, classes=order))
        tasks = empty_heads(teacher)
        for number in range(len(groups[task])):
            tasks[task]["heatmap"][0, number, 40 + 10 * number, 64] = 5.0 - number
        answer_with(monkeypatch, teacher, tasks)
        _, _, labels = boxes_of(answer(teacher, cloud, mounting()))
        assert [CLASS_NAMES[label] for label in labels] == groups[task]

    def test_classes_of_anchors_are_mapped_by_name(
        self, pointpillars: Any, mounting: Mounting, cloud: Tensor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An anchor that is certain to be a barrier, the last of its classes and not of ours."""
        teacher = load(pointpillars)
        head = teacher.detector.pts_bbox_head
        forward = head.forward

        def barrier_at_one_place(maps: Any) -> Any:
            scores, boxes, directions = forward(maps)
            scores = [torch.full_like(score, NO_OBJECT) for score in scores]
            scores[0][:, 9, 30, 40] = 5.0  # anchor 0 of ten classes each
            return scores, boxes, directions

        monkeypatch.setattr(head, "forward", barrier_at_one_place)
        boxes, _, labels = boxes_of(answer(teacher, cloud, mounting()))
        assert [CLASS_NAMES[label] for label in labels] == ["barrier"]
        # Cells of 0.5 m from -50 m on: x = -29.75, y = -34.75 in the LiDAR's frame.
        assert boxes[0, :2].tolist() == pytest.approx([-34.75 + 0.8, 29.75], abs=1.0)


class TestMap:
    def test_map_is_turned_into_our_axes(
        self, centerpoint: Any, mounting: Mounting, cloud: Tensor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With the LiDAR one whole cell ahead, our cells are its cells: our row is its column from the other side
        (left is minus right), our column its row plus one; our column 0 lies behind its range."""
        teacher = load(centerpoint)
        native = torch.randn(1, teacher.channels, *MAP)
        monkeypatch.setattr(teacher.detector, "extract_pts_feat", lambda *_, **__: [native])
        output = answer(teacher, cloud, mounting())
        expected = native.transpose(2, 3).flip(2)  # [ours row, ours column] = [row, 127 - column]
        torch.testing.assert_close(output.finest[..., 1:], expected[..., :-1], atol=1e-4, rtol=0)
        assert not output.finest[..., 0].any()
        assert output.encoded is None
        assert output.grid == BevGrid()

    @pytest.mark.parametrize("place", [(20.0, 10.0), (-31.3, 4.7), (3.1, -40.2)])
    def test_impulse_lands_where_it_is(
        self,
        centerpoint: Any,
        mounting: Mounting,
        cloud: Tensor,
        monkeypatch: pytest.MonkeyPatch,
        place: tuple[float, float],
    ) -> None:
        """On a grid of other cells and another extent, from a LiDAR that leans and is turned by 30 degrees more."""
        angle = math.radians(30)
        turn = torch.eye(4, dtype=torch.float64)
        turn[:2, :2] = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        ego_from_lidar = turn @ mounting(tilt=0.02)
        grid = BevGrid(x_min=-35.0, x_max=30.0, y_min=-42.0, y_max=20.0, rows=310, cols=260)
        teacher = load(centerpoint, grid=grid)
        there = transform_points(invert_rigid(ego_from_lidar), torch.tensor([[*place, 1.0]]).double())[0, :2]
        cell = ((there + 51.2) / 0.8).floor().long()
        native = torch.zeros(1, teacher.channels, *MAP)
        native[0, :, cell[1], cell[0]] = 1.0
        monkeypatch.setattr(teacher.detector, "extract_pts_feat", lambda *_, **__: [native])
        found = answer(teacher, cloud, ego_from_lidar).finest[0, 0]
        middle = (found[..., None] * grid.cell_centres()).sum(dim=(0, 1)) / found.sum()
        half = (((cell + 0.5) * 0.8 - 51.2) - there).norm()  # from the place to the middle of its cell
        assert float((middle - torch.tensor(place)).norm()) == pytest.approx(float(half), abs=0.02)
        assert float(half) < 0.57

    @pytest.mark.parametrize("name", ["centerpoint", "voxels", "pointpillars"])
    def test_cloud_moves_the_map_where_its_points_are(
        self, request: pytest.FixtureRequest, mounting: Mounting, cloud: Tensor, name: str
    ) -> None:
        """Through mmdet3d's own voxels, encoders, backbone and neck: 30 points more change the map around them."""
        teacher, place = load(request.getfixturevalue(name)), torch.tensor([18.0, -25.0])
        more = torch.cat([place + 0.1 * torch.randn(30, 2), torch.rand(30, 3)], dim=1)
        before = answer(teacher, cloud, mounting(tilt=0.02)).finest
        after = answer(teacher, torch.cat([cloud, more]), mounting(tilt=0.02)).finest
        change = (after - before).abs().sum(dim=(0, 1))
        assert change.any()
        middle = (change[..., None] * BevGrid().cell_centres()).sum(dim=(0, 1)) / change.sum()
        assert float((middle - place).norm()) < 2.0

    def test_level_of_the_pyramid_is_the_one_with_cells_like_ours(
        self, pointpillars: Any, mounting: Mounting, cloud: Tensor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """PointPillars has cells of 0.5, 1 and 2 m."""
        for cell, level in ((0.4, 0), (0.8, 1), (2.5, 2)):
            rows = round(102.4 / cell)
            teacher = load(pointpillars, grid=BevGrid(rows=rows, cols=rows))
            extract = teacher.detector.extract_pts_feat

            def marked(*arguments: Any, extract: Any = extract, **more: Any) -> list[Tensor]:
                return [torch.full_like(bev, number + 1.0) for number, bev in enumerate(extract(*arguments, **more))]

            monkeypatch.setattr(teacher.detector, "extract_pts_feat", marked)
            middle = answer(teacher, cloud, mounting()).finest[0, 0, rows // 2, rows // 2]
            assert middle.item() == pytest.approx(level + 1)


class TestPoints:
    def test_detector_gets_points_as_it_was_trained_with_them(
        self, centerpoint: Any, pointpillars: Any, mounting: Mounting, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """10 m ahead, 4 m left, 0.8 m up: in the LiDAR's frame 4 m to minus x, 9.2 m along y, 1 m below."""
        point = torch.tensor([[10.0, 4.0, 0.8, 0.4, 0.25]])
        before = point.clone()
        for detector, expected in (
            (centerpoint, [-4.0, 9.2, -1.0, 102.0, 0.25]),
            (pointpillars, [-4.0, 9.2, -1.0, 0.25]),  # reads no intensity
        ):
            teacher = load(detector)
            seen: list[Tensor] = []
            voxelize = teacher.detector.data_preprocessor.voxelize

            def watched(clouds: Any, samples: Any, voxelize: Any = voxelize, seen: list[Tensor] = seen) -> Any:
                seen.extend(clouds)
                return voxelize(clouds, samples)

            monkeypatch.setattr(teacher.detector.data_preprocessor, "voxelize", watched)
            answer(teacher, point, mounting())
            torch.testing.assert_close(seen[0], torch.tensor([expected]), atol=1e-4, rtol=0)
        assert torch.equal(point, before)

    def test_frame_without_points_in_range_is_refused(self, centerpoint: Any, mounting: Mounting) -> None:
        with pytest.raises(ValueError, match="a frame has no LiDAR point in the range of the mmdet3d teacher"):
            answer(load(centerpoint), torch.tensor([[90.0, 0, 0, 0, 0]]), mounting())


@pytest.mark.parametrize("name", ["centerpoint", "voxels", "pointpillars"])
def test_batch_of_two_is_two_batches_of_one(
    request: pytest.FixtureRequest, mounting: Mounting, cloud: Tensor, name: str
) -> None:
    teacher = load(request.getfixturevalue(name))
    clouds, poses = [cloud, cloud[:1500] * 0.9], [mounting(), mounting(tilt=0.05)]
    with torch.no_grad():
        both = teacher(clouds, torch.stack(poses))
        alone = [teacher([points], pose[None]) for points, pose in zip(clouds, poses, strict=True)]
    torch.testing.assert_close(both.finest, torch.cat([output.finest for output in alone]), atol=1e-5, rtol=1e-5)
    for field in ("logits", "codes", "features"):
        expected = torch.cat([getattr(output.predictions, field) for output in alone], dim=1)
        torch.testing.assert_close(getattr(both.predictions, field), expected, atol=1e-4, rtol=1e-4)


def test_sparse_convolutions_as_the_model_zoo_stores_them(
    voxels: Any, mounting: Mounting, cloud: Tensor, tmp_path: Path
) -> None:
    """The zoo has mmcv's layout, with the output channels last; spconv has them first."""
    pytest.importorskip("spconv")
    content = torch.load(voxels.checkpoint, weights_only=False)
    weights = {
        name: value.permute(1, 2, 3, 4, 0) if value.ndim == 5 else value
        for name, value in content["state_dict"].items()
    }
    assert any(value.ndim == 5 for value in weights.values())
    torch.save({"meta": {}, "state_dict": weights}, tmp_path / "zoo.pth")
    zoo = load_mmdet3d_teacher(Mmdet3dConfig(config=voxels.config), tmp_path / "zoo.pth", grid=BevGrid())
    found, expected = (answer(teacher, cloud, mounting()).finest for teacher in (zoo, load(voxels)))
    assert torch.equal(found, expected)


def test_mixed_precision_around_it_changes_nothing(centerpoint: Any, mounting: Mounting, cloud: Tensor) -> None:
    teacher = load(centerpoint)
    plain = answer(teacher, cloud, mounting())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = answer(teacher, cloud, mounting())
    assert mixed.finest.dtype == torch.float32
    assert torch.equal(mixed.finest, plain.finest)


def test_detector_without_an_image_branch_gives_the_same(
    make_detector: Callable[..., Any], pointpillars: Any, mounting: Mounting, cloud: Tensor, tmp_path: Path
) -> None:
    """VoxelNet calls its parts by other names than the detectors that could also take images, and is called else."""

    def rename(settings: Any) -> None:
        model = settings.model
        parts = {name.removeprefix("pts_"): model.pop(name) for name in list(model) if name.startswith("pts_")}
        model.update(type="VoxelNet", train_cfg=model.train_cfg.pts, test_cfg=model.test_cfg.pts, **parts)

    content = torch.load(pointpillars.checkpoint, weights_only=False)
    content["state_dict"] = {name.removeprefix("pts_"): value for name, value in content["state_dict"].items()}
    torch.save(content, tmp_path / "renamed.pth")
    renamed = make_detector(POINTPILLARS, change=rename, classes=None)
    config = Mmdet3dConfig(config=renamed.config, num_queries=20)
    teacher = load_mmdet3d_teacher(config, tmp_path / "renamed.pth", grid=BevGrid())
    found, expected = (answer(model, cloud, mounting()) for model in (teacher, load(pointpillars)))
    assert torch.equal(found.finest, expected.finest)
    assert found.predictions is not None
    assert expected.predictions is not None
    assert torch.equal(found.predictions.codes, expected.predictions.codes)


def test_frozen_teacher_stays_as_it_is(centerpoint: Any, mounting: Mounting, cloud: Tensor) -> None:
    trained = trained_teacher(centerpoint.checkpoint, Mmdet3dConfig(config=centerpoint.config), grid=BevGrid())
    assert isinstance(trained.teacher, FrozenTeacher)
    assert trained.num_sweeps == 9
    trained.teacher.train()
    before = {name: value.clone() for name, value in trained.teacher.state_dict().items()}
    first, second = (trained.teacher([cloud], mounting()[None]) for _ in range(2))
    assert not any(module.training for module in trained.teacher.modules())
    assert not first.finest.requires_grad
    assert torch.equal(first.finest, second.finest)
    after = trained.teacher.state_dict()
    assert any("running_mean" in name for name in after)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_own_grid_is_the_range_of_the_detector(pointpillars: Any) -> None:
    grid = trained_teacher(pointpillars.checkpoint, Mmdet3dConfig(config=pointpillars.config)).grid
    assert (grid.x_min, grid.x_max, grid.y_min, grid.y_max) == (-50.0, 50.0, -50.0, 50.0)
    assert (grid.rows, grid.cols) == (125, 125)

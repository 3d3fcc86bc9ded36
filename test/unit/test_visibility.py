"""Targets that no camera shows: who they are, and that the loss neither matches nor punishes them."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from bevdistill_ros.core.boxes import CODE_SIZE, encode_boxes
from bevdistill_ros.core.geometry import invert_rigid
from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.core.nuscenes import NUM_CLASSES
from bevdistill_ros.model.records import CameraInput, SetPrediction
from training.criterion.detection_loss import CriterionConfig, DetectionLoss
from training.criterion.heatmap import gaussian_targets, heatmap_loss
from training.criterion.set_loss import sigmoid_focal_loss
from training.data.sample import Batch, in_view_first
from training.data.visibility import boxes_in_view, looks_all_around, targets_in_view
from training.synth.rig import nuscenes_cameras

GRID = BevGrid(x_min=-20.0, x_max=20.0, y_min=-20.0, y_max=20.0, rows=20, cols=20)
SIZE = (60, 100)


def camera(yaw: float, *, ahead: float = 0.0) -> Tensor:
    """image_from_ego (4, 4) of a camera of 90 degrees, 1.5 m above ground, that looks along `yaw` [degrees]."""
    a = math.radians(yaw)
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = torch.tensor([[math.sin(a), 0, math.cos(a)], [-math.cos(a), 0, math.sin(a)], [0, -1, 0]])
    pose[:3, 3] = torch.tensor([ahead, 0.0, 1.5])
    image_from_camera = torch.eye(4, dtype=torch.float64)
    image_from_camera[:3, :3] = torch.tensor([[50.0, 0, 49.5], [0, 50.0, 29.5], [0, 0, 1]])
    return image_from_camera @ invert_rigid(pose)


def box(x: float, y: float, length: float = 4.0, width: float = 2.0, yaw: float = 0.0) -> list[float]:
    return [x, y, 0.75, length, width, 1.5, yaw, 0.0, 0.0]


def frame(*yaws: float, count: int = 1, ahead: float = 0.0) -> CameraInput:
    """The same cameras for each item; the vehicle stands `ahead` [m] of where it started."""
    pose = torch.eye(4, dtype=torch.float64)
    pose[0, 3] = ahead
    return CameraInput(
        images=torch.zeros(count, len(yaws), 3, *SIZE, dtype=torch.uint8),
        image_from_ego=torch.stack([camera(yaw) for yaw in yaws]).float().expand(count, -1, -1, -1),
        valid=torch.ones(count, len(yaws), dtype=torch.bool),
        global_from_ego=pose.expand(count, 4, 4),
    )


def batch_of(cameras: CameraInput, *boxes: Tensor, history: tuple[CameraInput, ...] = ()) -> Batch:
    count = len(boxes)
    batch = Batch(
        tokens=("a",) * count,
        stamps_ns=(0,) * count,
        cameras=cameras,
        history=history,
        history_present=torch.ones(len(history), count, dtype=torch.bool),
        points=(torch.zeros(0, 5),) * count,
        ego_from_lidar=torch.eye(4, dtype=torch.float64).expand(count, 4, 4),
        boxes=boxes,
        labels=tuple(torch.zeros(len(own), dtype=torch.int64) for own in boxes),
        num_lidar_points=tuple(torch.ones(len(own), dtype=torch.int64) for own in boxes),
        box_weights=tuple(torch.ones(len(own)) for own in boxes),
        annotated=torch.ones(count, dtype=torch.bool),
    )
    return in_view_first(batch)


def predictions_at(boxes: Tensor, *, layers: int = 2) -> SetPrediction:
    """One query on each box, all of one score."""
    codes = encode_boxes(boxes).expand(layers, 1, -1, -1).clone()
    logits = torch.linspace(-1.0, 1.0, len(boxes) * NUM_CLASSES).reshape(1, 1, len(boxes), NUM_CLASSES)
    return SetPrediction(
        logits=logits.expand(layers, -1, -1, -1).clone().requires_grad_(),
        codes=codes.requires_grad_(),
        features=torch.zeros(layers, 1, len(boxes), 4),
    )


def loss_of(out_of_view: str, *, heatmap: float = 0.0) -> DetectionLoss:
    config = CriterionConfig(out_of_view=out_of_view, heatmap=heatmap)  # type: ignore[arg-type]
    return DetectionLoss(config, channels=8, grid=GRID, query_selection="learned", by_cameras=True)


def test_boxes_by_hand() -> None:
    boxes = torch.tensor(
        [
            box(10.0, 0.0),  # ahead
            box(-10.0, 0.0),  # behind
            box(10.0, 11.5),  # its centre is beyond the left edge (45 degrees), its nearer corner is not
            box(10.0, 14.0),  # all of it is beyond
            box(3.0, 0.0, length=1.0, width=12.0),  # wider than the view: only its middle lies in the image
        ]
    )
    seen = boxes_in_view(boxes, camera(0.0)[None].float(), torch.tensor([True]), SIZE)
    assert seen.tolist() == [True, False, True, False, True]
    assert not boxes_in_view(boxes, camera(0.0)[None].float(), torch.tensor([False]), SIZE).any()
    assert boxes_in_view(boxes[:0], camera(0.0)[None].float(), torch.tensor([True]), SIZE).shape == (0,)


def test_the_ring_of_nuscenes_looks_all_around_and_one_camera_does_not() -> None:
    rig = nuscenes_cameras(width=320, height=128)
    projections = []
    for one in rig:
        image_from_camera = torch.eye(4, dtype=torch.float64)
        image_from_camera[:3, :3] = torch.from_numpy(one.intrinsics)
        projections.append(image_from_camera @ invert_rigid(torch.from_numpy(one.ego_from_camera)))
    ring = CameraInput(
        images=torch.zeros(1, 6, 3, 128, 320, dtype=torch.uint8),
        image_from_ego=torch.stack(projections).float()[None],
        valid=torch.ones(1, 6, dtype=torch.bool),
        global_from_ego=torch.eye(4, dtype=torch.float64)[None],
    )
    assert looks_all_around(ring, 0)
    lost = replace(ring, valid=torch.tensor([[True] * 5 + [False]]))
    assert not looks_all_around(lost, 0)
    assert not looks_all_around(frame(0.0), 0)
    assert targets_in_view([torch.tensor([box(-10.0, 0.0)])], ring)[0].tolist() == [True]


def test_each_item_has_its_own_cameras() -> None:
    boxes = torch.tensor([box(10.0, 0.0), box(-10.0, 0.0)])
    cameras = frame(0.0, count=2)
    turned = replace(cameras, image_from_ego=torch.stack([camera(0.0), camera(180.0)])[:, None].float())
    assert [seen.tolist() for seen in targets_in_view([boxes, boxes], turned)] == [[True, False], [False, True]]


def test_what_an_earlier_frame_showed_is_in_view_for_a_clip() -> None:
    """The vehicle drove 20 m: what is 10 m behind it now was 10 m ahead of it then."""
    boxes = torch.tensor([box(-10.0, 0.0), box(-40.0, 0.0)])
    now, then = frame(0.0, ahead=20.0), frame(0.0)
    assert targets_in_view([boxes], now)[0].tolist() == [False, False]
    assert targets_in_view([boxes], now, [then])[0].tolist() == [True, False]


def test_ignored_boxes_are_neither_matched_nor_punished() -> None:
    """Query 1 lies on the box behind the vehicle: its class loss and its box loss are gone, those of others stay."""
    boxes = torch.tensor([box(10.0, 0.0), box(-10.0, 0.0), box(10.0, 6.0)])
    predictions = predictions_at(boxes)
    batch = batch_of(frame(0.0), boxes[:2])
    found = loss_of("ignore")(predictions, torch.zeros(1, 8, 20, 20), batch)
    expected = torch.zeros(())
    for layer in range(2):
        for query in (0, 2):
            target = torch.zeros(NUM_CLASSES)
            target[0] = float(query == 0)
            expected = expected + sigmoid_focal_loss(predictions.logits[layer, 0, query], target).sum()
    torch.testing.assert_close(found["classification"], expected)
    assert float(found["box"]) == pytest.approx(0.0, abs=1e-5)
    (found["classification"] + found["box"]).backward()
    assert predictions.logits.grad is not None
    assert not predictions.logits.grad[:, 0, 1].any()
    assert predictions.logits.grad[:, 0, [0, 2]].all()


def test_a_matched_query_counts_although_an_ignored_box_is_near() -> None:
    boxes = torch.tensor([box(10.0, 9.0), box(10.0, 12.6, width=0.6)])  # the second one lies outside of the view
    assert targets_in_view([boxes], frame(0.0))[0].tolist() == [True, False]
    predictions = predictions_at(torch.tensor([box(10.0, 11.0)]))
    loss_of("ignore")(predictions, torch.zeros(1, 8, 20, 20), batch_of(frame(0.0), boxes))["classification"].backward()
    assert predictions.logits.grad is not None
    assert predictions.logits.grad.all()


@pytest.mark.parametrize("yaws", [(0.0, 90.0, 180.0, 270.0)])
def test_cameras_all_around_change_no_bit(yaws: tuple[float, ...]) -> None:
    boxes = torch.tensor([box(10.0, 0.0), box(-10.0, 0.0), box(0.3, 0.2, length=0.2, width=0.2)])  # one under the roof
    predictions = predictions_at(boxes)
    batch, bev = batch_of(frame(*yaws), boxes), torch.randn(1, 8, 20, 20)
    ignore, count = loss_of("ignore", heatmap=1.0), loss_of("count", heatmap=1.0)
    count.load_state_dict(ignore.state_dict())
    first, second = (loss.eval()(predictions, bev, batch) for loss in (ignore, count))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    one = batch_of(frame(0.0), boxes)
    assert not torch.equal(
        ignore(predictions, bev, one)["classification"], count(predictions, bev, one)["classification"]
    )


def test_heatmap_leaves_out_the_cells_of_ignored_boxes() -> None:
    boxes, ignored = torch.tensor([box(10.0, 0.0)]), torch.tensor([box(-10.0, 0.0)])
    labels = [torch.zeros(1, dtype=torch.int64)]
    logits = torch.randn(1, NUM_CLASSES, 20, 20, requires_grad=True)
    heatmap_loss(logits, [boxes], labels, GRID, [ignored]).backward()
    assert logits.grad is not None
    hidden = gaussian_targets([ignored], labels, GRID, num_classes=1)[0, 0] > 0.1
    assert 1 < hidden.sum() < 30
    assert not logits.grad[0, :, hidden].any()
    assert logits.grad[0, :, ~hidden].all()


def test_a_batch_of_two_is_two_batches_of_one() -> None:
    boxes = [torch.tensor([box(10.0, 0.0), box(-10.0, 3.0)]), torch.tensor([box(12.0, 1.0), box(-9.0, 0.0)])]
    single = [predictions_at(own) for own in boxes]
    both = SetPrediction(
        logits=torch.cat([one.logits for one in single], dim=1),
        codes=torch.cat([one.codes for one in single], dim=1),
        features=torch.zeros(2, 2, 2, 4),
    )
    bev = torch.zeros(1, 8, 20, 20)
    alone = [loss_of("ignore")(one, bev, batch_of(frame(0.0), own)) for one, own in zip(single, boxes, strict=True)]
    together = loss_of("ignore")(both, bev.expand(2, -1, -1, -1), batch_of(frame(0.0, count=2), *boxes))
    for name, value in together.items():
        torch.testing.assert_close(value, (alone[0][name] + alone[1][name]) / 2)
    assert both.codes.shape[-1] == CODE_SIZE


def test_an_unknown_choice_is_refused() -> None:
    with pytest.raises(ValueError, match="out_of_view must be ignore or count"):
        loss_of("forget")

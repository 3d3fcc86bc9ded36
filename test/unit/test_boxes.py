"""Box layout, codes, corners and overlap; the reference for overlap is shapely, which the devkit brings."""

import math

import pytest
import torch
from shapely.geometry import Polygon

from bevdistill_ros.core.boxes import (
    corners_3d,
    corners_bev,
    decode_boxes,
    encode_boxes,
    iou_bev,
    points_in_boxes,
    transform_boxes,
    wrap_angle,
)

# 4 m long, 2 m wide, 1.5 m high, centre 0.75 m above the road, heading to the left of the ego (+y) and driving so.
LEFTWARD_CAR = torch.tensor([[10.0, 5.0, 0.75, 4.0, 2.0, 1.5, math.pi / 2, 0.0, 3.0]])


def random_boxes(count: int, seed: int, spread: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.randn(count, 9, generator=generator) * spread
    boxes[:, 3:6] = boxes[:, 3:6].abs() + 0.2
    return boxes


def test_code_of_a_hand_made_box() -> None:
    expected = [10.0, 5.0, math.log(2), math.log(4), 0.75, math.log(1.5), 1.0, 0.0, 0.0, 3.0]
    torch.testing.assert_close(encode_boxes(LEFTWARD_CAR), torch.tensor([expected]))


def test_codes_decode_to_the_boxes() -> None:
    boxes = random_boxes(50, seed=0)
    boxes[:, 6] = wrap_angle(boxes[:, 6])
    torch.testing.assert_close(decode_boxes(encode_boxes(boxes)), boxes, rtol=1e-4, atol=1e-4)


def test_length_lies_along_the_heading() -> None:
    corners = corners_bev(LEFTWARD_CAR)[0]
    front_left, rear_left, rear_right, front_right = corners.tolist()
    assert front_left == pytest.approx([9.0, 7.0])  # ahead is +y, so left is -x
    assert rear_left == pytest.approx([9.0, 3.0])
    assert rear_right == pytest.approx([11.0, 3.0])
    assert front_right == pytest.approx([11.0, 7.0])


def test_z_is_the_centre() -> None:
    heights = corners_3d(LEFTWARD_CAR)[0, :, 2]
    assert heights.tolist() == pytest.approx([0.0] * 4 + [1.5] * 4)


def test_transform_turns_heading_and_velocity() -> None:
    quarter_turn = torch.tensor([[0.0, -1, 0, 100], [1, 0, 0, 0], [0, 0, 1, 2], [0, 0, 0, 1]])
    moved = transform_boxes(quarter_turn, LEFTWARD_CAR)[0]
    assert moved[:3].tolist() == pytest.approx([95.0, 10.0, 2.75])
    assert abs(moved[6].item()) == pytest.approx(math.pi)
    assert moved[7:].tolist() == pytest.approx([-3.0, 0.0], abs=1e-6)


def test_points_in_box_at_and_beyond_each_face() -> None:
    inside = torch.tensor([[10.0, 6.9, 0.1], [9.05, 5.0, 1.4], [10.0, 5.0, 0.75]])
    outside = torch.tensor([[10.0, 7.1, 0.5], [8.9, 5.0, 0.5], [10.0, 5.0, 1.6]])
    assert points_in_boxes(inside, LEFTWARD_CAR).all()
    assert not points_in_boxes(outside, LEFTWARD_CAR).any()


def test_overlap_of_hand_made_boxes() -> None:
    car = torch.tensor([[0.0, 0, 0, 4, 2, 1, 0, 0, 0]])
    shifted = car + torch.tensor([[2.0, 0, 0, 0, 0, 0, 0, 0, 0]])
    crossed = car + torch.tensor([[0.0, 0, 0, 0, 0, 0, math.pi / 2, 0, 0]])
    apart = car + torch.tensor([[9.0, 0, 0, 0, 0, 0, 0.3, 0, 0]])
    overlaps = iou_bev(car.repeat(4, 1), torch.cat([car, shifted, crossed, apart]))
    assert overlaps.tolist() == pytest.approx([1.0, 4 / 12, 4 / 12, 0.0], abs=1e-6)


@pytest.mark.parametrize("offset", [0.0, 500.0])
def test_overlap_agrees_with_polygon_clipping(offset: float) -> None:
    first, second = random_boxes(600, seed=1).double(), random_boxes(600, seed=2).double()
    first[:, :2] += offset
    second[:, :2] += offset
    expected = []
    for a, b in zip(corners_bev(first), corners_bev(second), strict=True):
        a_polygon, b_polygon = Polygon(a.numpy()), Polygon(b.numpy())
        expected.append(a_polygon.intersection(b_polygon).area / a_polygon.union(b_polygon).area)
    torch.testing.assert_close(iou_bev(first, second), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-7)
    assert sum(value > 0 for value in expected) > 100


def test_pairs_that_lie_apart_change_no_other() -> None:
    """On a CPU only pairs that can overlap are computed, and each finds its place again."""
    first, second = random_boxes(400, seed=3), random_boxes(400, seed=4)
    second[::3, :2] += 300.0
    overlaps = iou_bev(first, second)
    assert overlaps[::3].tolist() == [0.0] * len(overlaps[::3])
    together = torch.tensor([number % 3 != 0 for number in range(400)])
    torch.testing.assert_close(overlaps[together], iou_bev(first[together], second[together]))
    assert int((overlaps > 0).sum()) > 50


def test_an_overlap_with_what_is_no_number_is_none_either() -> None:
    first, second = random_boxes(3, seed=3), random_boxes(3, seed=3)
    second[1, 0] = float("nan")
    assert iou_bev(first, second).isnan().tolist() == [False, True, False]


def test_nothing_overlaps_nothing() -> None:
    assert iou_bev(torch.zeros(0, 9), torch.zeros(0, 9)).shape == (0,)

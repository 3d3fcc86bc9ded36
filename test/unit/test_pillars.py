"""Dynamic pillars."""

import pytest
import torch
from torch import Tensor

from bevdistill_ros.core.grid import BevGrid
from training.teacher.pillars import PillarEncoder

GRID = BevGrid(x_min=-8.0, x_max=8.0, y_min=-4.0, y_max=4.0, z_min=-1.0, z_max=3.0, rows=4, cols=16)


def encoder(grid: BevGrid = GRID) -> PillarEncoder:
    """An encoder whose batch norm has seen data, in eval mode."""
    torch.manual_seed(0)
    encoder = PillarEncoder(grid=grid, channels=(6, 5))
    encoder([cloud(200)])
    return encoder.eval()


def cloud(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    low, size = torch.tensor([-9.0, -5.0, -2.0, 0.0, 0.0]), torch.tensor([18.0, 10.0, 6.0, 1.0, 0.5])
    return low + size * torch.rand(count, 5, generator=generator)


def test_a_point_falls_on_its_cell_rows_along_y() -> None:
    canvas = encoder()([torch.tensor([[2.2, -2.5, 0.0, 0.5, 0.0]])])
    assert tuple(canvas.shape) == (1, 5, 4, 16)
    occupied = canvas[0].abs().sum(dim=0).nonzero()
    assert occupied.tolist() == [[0, 10]]


def test_canvas_equals_a_slow_loop() -> None:
    model, points = encoder(), cloud(300)
    canvas = model([points])
    expected = torch.zeros(5, 4, 16)
    pillars: dict[tuple[int, int], list[Tensor]] = {}
    for point in points:
        x, y, z = point[:3].tolist()
        if -8 <= x < 8 and -4 <= y < 4 and -1 <= z < 3:
            pillars.setdefault((int((y + 4) // 2), int((x + 8) // 1)), []).append(point)
    for (row, col), members in pillars.items():
        stack = torch.stack(members)
        mean = stack[:, :3].mean(dim=0)
        rows = []
        for point in stack:
            x, y, z, intensity, lag = point
            places = torch.stack([x / 8, y / 4, (z - 1) / 2, intensity, lag])
            from_mean = (point[:3] - mean) / torch.tensor([1.0, 2.0, 1.0])
            from_centre = torch.stack([x - (col - 7.5), (y - (2 * row - 3)) / 2])
            rows.append(torch.cat([places, from_mean, from_centre]))
        expected[:, row, col] = model.layers(torch.stack(rows)).amax(dim=0)
    assert len(pillars) > 50
    torch.testing.assert_close(canvas[0], expected, atol=1e-5, rtol=1e-4)


def test_points_outside_change_nothing() -> None:
    model, points = encoder(), cloud(100)
    outside = torch.tensor(
        [
            [8.0, 0, 0, 1, 0],
            [-8.1, 0, 0, 1, 0],
            [0, 4.0, 0, 1, 0],
            [0, 0, 3.0, 1, 0],
            [0, 0, -1.1, 1, 0],
            [float("nan")] * 5,
        ]
    )
    assert torch.equal(model([torch.cat([outside, points])]), model([points]))


def test_order_of_points_does_not_matter() -> None:
    model, points = encoder(), cloud(400)
    shuffled = points[torch.randperm(400, generator=torch.Generator().manual_seed(3))]
    torch.testing.assert_close(model([shuffled]), model([points]), atol=1e-5, rtol=1e-5)


def test_batch_of_three_is_three_batches_of_one_in_eval() -> None:
    model = encoder()
    clouds = [cloud(150, seed=1), torch.zeros(0, 5), cloud(70, seed=2)]
    alone = torch.cat([model([points]) for points in clouds])
    torch.testing.assert_close(model(clouds), alone, atol=1e-6, rtol=1e-6)
    assert (alone[1] == 0).all()


@pytest.mark.parametrize("points", [torch.zeros(0, 5), torch.tensor([[0.5, 0.5, 0.5, 0.5, 0.0]])])
def test_almost_empty_batch_trains(points: Tensor) -> None:
    torch.manual_seed(0)
    model = PillarEncoder(grid=GRID, channels=(6,))
    before = {name: value.clone() for name, value in model.named_buffers()}
    canvas = model([points])
    canvas.sum().backward()
    assert canvas.isfinite().all()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())


def test_gradients_reach_every_parameter() -> None:
    torch.manual_seed(0)
    model = PillarEncoder(grid=GRID, channels=(6, 5))
    model([cloud(300)]).square().sum().backward()
    assert all(parameter.grad is not None and (parameter.grad != 0).any() for parameter in model.parameters())


def test_points_just_below_the_upper_border_stay_inside() -> None:
    grid = BevGrid(x_min=-51.2, x_max=51.2, y_min=-51.2, y_max=51.2, rows=512, cols=512)
    edge = torch.nextafter(torch.tensor(51.2), torch.tensor(0.0)).item()
    canvas = encoder(grid)([torch.tensor([[edge, edge, 0.0, 0.5, 0.0]])])
    occupied = canvas[0].abs().sum(dim=0).nonzero()
    assert occupied.tolist() in ([[511, 511]], [])


def test_points_are_not_changed_and_misshapen_ones_refused() -> None:
    model, points = encoder(), cloud(50)
    before = points.clone()
    model([points])
    assert torch.equal(points, before)
    with pytest.raises(ValueError, match=r"batch item 1 must be \(P, 5\).*\(50, 4\)"):
        model([points, points[:, :4]])
    with pytest.raises(ValueError, match="at least one layer"):
        PillarEncoder(grid=GRID, channels=())

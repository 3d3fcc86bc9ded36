"""Which axis is which in a BEV map, and metres to cells."""

import pytest
import torch
from torch.nn.functional import grid_sample

from bevdistill_ros.core.grid import BevGrid

GRID = BevGrid(x_min=-8.0, x_max=8.0, y_min=-4.0, y_max=4.0, z_min=-1.0, z_max=3.0, rows=4, cols=16)


def test_rows_are_y_and_columns_are_x() -> None:
    centres = GRID.cell_centres()
    assert centres.shape == (4, 16, 2)
    assert centres[0, 0].tolist() == [-7.5, -3.0]  # first cell: the corner at x_min, y_min
    assert centres[0, 1].tolist() == [-6.5, -3.0]  # next column: further ahead
    assert centres[1, 0].tolist() == [-7.5, -1.0]  # next row: further left


def test_normalised_metres_are_what_grid_sample_takes() -> None:
    painted = torch.zeros(1, 1, GRID.rows, GRID.cols)
    painted[0, 0, 3, 2] = 1.0  # row 3, column 2: x = -5.5 m, y = 3 m
    unit = GRID.normalize(torch.tensor([[-5.5, 3.0], [3.0, -5.5]]))
    sampled = grid_sample(painted, (2 * unit - 1)[None, None], align_corners=False)
    assert sampled.flatten().tolist() == pytest.approx([1.0, 0.0])


def test_cells_round_trip() -> None:
    points = torch.tensor([[-8.0, -4.0], [0.3, 1.7], [7.9, 3.9]])
    torch.testing.assert_close(GRID.metres_from_cells(GRID.cells_from_metres(points)), points)
    assert GRID.cells_from_metres(torch.tensor([-7.5, -3.0])).tolist() == [0.0, 0.0]


def test_height_is_normalised_too() -> None:
    assert GRID.normalize(torch.tensor([0.0, 0.0, 3.0])).tolist() == [0.5, 0.5, 1.0]
    torch.testing.assert_close(GRID.denormalize(torch.tensor([0.25, 0.5, 0.0])), torch.tensor([-4.0, 0.0, -1.0]))


def test_contains_leaves_out_the_upper_border() -> None:
    points = torch.tensor([[-8.0, -4.0], [8.0, 0.0], [0.0, 4.0], [7.99, 3.99]])
    assert GRID.contains(points).tolist() == [True, False, False, True]


def test_other_resolution_keeps_the_extent() -> None:
    finer = GRID.with_cells(8, 32)
    assert finer.cell_size == (0.5, 1.0)
    assert (finer.x_min, finer.y_max, finer.centre) == (-8.0, 4.0, (0.0, 0.0))


@pytest.mark.parametrize(("settings", "message"), [({"x_min": 60.0}, "x_min"), ({"rows": 0}, "rows")])
def test_impossible_grids_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BevGrid(**settings)  # type: ignore[arg-type]

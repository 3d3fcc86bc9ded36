import math
from pathlib import Path

import numpy as np
import pytest
import torch

from bevdistill_ros.core.grid import BevGrid
from training.data.points import PointLayout, check_points, load_sweeps, points_on_grid, read_points


def write(path: Path, rows: list[list[float]]) -> Path:
    np.array(rows, dtype=np.float32).tofile(path)
    return path


class TestReadPoints:
    def test_columns(self, tmp_path: Path) -> None:
        path = write(tmp_path / "sweep.bin", [[1, 2, 3, 255, 31], [-1, 0, 5, 0, 0]])
        np.testing.assert_array_equal(read_points(path), [[1, 2, 3, 255, 31], [-1, 0, 5, 0, 0]])

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"sweep.bin is missing; unpack the LiDAR files"):
            read_points(tmp_path / "sweep.bin")

    @pytest.mark.parametrize("size", [19, 21, 36])
    def test_cut_file(self, tmp_path: Path, size: int) -> None:
        path = write(tmp_path / "sweep.bin", [[1, 2, 3, 4, 5]] * 3)
        path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(ValueError, match=rf"sweep.bin is cut off or of another layout: {size} bytes"):
            read_points(path)

    def test_values_that_are_not_finite(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="not finite"):
            read_points(write(tmp_path / "sweep.bin", [[1, math.nan, 3, 4, 5]]))

    def test_empty_file_holds_no_point(self, tmp_path: Path) -> None:
        assert read_points(write(tmp_path / "sweep.bin", [])).shape == (0, 5)


class TestLoadSweeps:
    def test_hand_computed(self, tmp_path: Path) -> None:
        """The second sensor is turned left by 90 degrees and 2 m ahead of the first."""
        files = [write(tmp_path / "a.bin", [[10, 0, 1, 255, 3]]), write(tmp_path / "b.bin", [[10, 0, 1, 51, 3]])]
        turned = np.array([[0.0, -1, 0, 2], [1, 0, 0, 0], [0, 0, 1, 1.8], [0, 0, 0, 1]])
        points = load_sweeps(files, np.stack([np.eye(4), turned]), np.array([0.0, 0.05]))
        assert points.dtype == torch.float32
        expected = torch.tensor([[10, 0, 1, 1, 0], [2, 10, 2.8, 0.2, 0.05]])
        torch.testing.assert_close(points, expected)

    def test_own_vehicle_is_cut_in_the_sensor_frame(self, tmp_path: Path) -> None:
        rows = [[0.9, -0.9, 5, 0, 0], [1.0, 0.5, 0, 0, 0], [0.5, -1.0, 0, 0, 0], [0.0, 0.0, 0, 0, 0]]
        away = np.eye(4)
        away[0, 3] = 50.0
        points = load_sweeps([write(tmp_path / "a.bin", rows)], away[None], np.zeros(1))
        assert points[:, 0].tolist() == [51.0, 50.5]
        kept = load_sweeps([write(tmp_path / "a.bin", rows)], away[None], np.zeros(1), own_vehicle=0.0)
        assert len(kept) == 4

    def test_far_from_the_origin_of_the_map_nothing_is_lost(self, tmp_path: Path) -> None:
        """Poses are composed in float64 before points are touched, so float32 points keep millimetres."""
        there = np.eye(4)
        there[:3, 3] = [54321.0, -98765.0, 12.0]
        ego_from_sweep = np.linalg.inv(there) @ there
        points = load_sweeps([write(tmp_path / "a.bin", [[33.333, 1.5, 0, 0, 0]])], ego_from_sweep[None], np.zeros(1))
        torch.testing.assert_close(points[0, :3], torch.tensor([33.333, 1.5, 0.0]), atol=1e-5, rtol=0)

    def test_no_sweep(self) -> None:
        assert load_sweeps([], np.zeros((0, 4, 4)), np.zeros(0)).shape == (0, 5)


class TestPointsOnGrid:
    def test_borders(self) -> None:
        grid = BevGrid(x_min=0, x_max=10, y_min=-5, y_max=5, z_min=-1, z_max=2, rows=4, cols=4)
        inside = [[0.0, -5.0, -1.0], [9.99, 4.99, 1.99]]
        outside = [[10.0, 0, 0], [5, 5.0, 0], [5, 0, 2.0], [-0.01, 0, 0], [5, -5.01, 0], [5, 0, -1.01]]
        points = torch.tensor(inside + outside)
        before = points.clone()
        assert points_on_grid(points, grid).tolist() == points[:2].tolist()
        assert torch.equal(points, before)


class TestLayout:
    """What the public reports have: files of 4 or 6 columns, of float64, of other units, read as nuScenes' five."""

    @staticmethod
    def cloud(count: int = 600) -> np.ndarray:
        """Points (count, 5) as nuScenes' files have them."""
        random = np.random.default_rng(0)
        places = random.uniform(-60, 60, (count, 3)) * [1, 1, 0.05]
        return np.column_stack([places, random.integers(0, 256, count), random.integers(0, 32, count)])

    @pytest.mark.parametrize(
        ("columns", "dtype", "scale"),
        [
            (["x", "y", "z", "intensity"], "float32", 1.0),
            (["x", "y", "z", "intensity", "ring", "time"], "float32", 1.0),
            (["x", "y", "z", "intensity", "ring"], "float64", 1.0),
            (["x", "y", "z", "intensity", "ring"], "float32", 1000.0),
            (["x", "y", "z", "intensity", "ring"], "float32", 1e-3),
        ],
    )
    def test_another_layout_is_refused_and_can_be_set(
        self, tmp_path: Path, columns: list[str], dtype: str, scale: float
    ) -> None:
        cloud = np.column_stack([self.cloud(), np.linspace(0, 0.1, 600)])[:, : len(columns)]
        cloud[:, :3] *= scale
        cloud.astype(dtype).tofile(tmp_path / "cloud.bin")
        with pytest.raises(
            ValueError, match=r"cloud.bin (does not look like points of|holds points that are not).* set data.points"
        ):
            check_points(tmp_path / "cloud.bin", PointLayout())
        if scale == 1.0:
            layout = PointLayout(columns=tuple(columns), dtype=dtype)  # type: ignore[arg-type]
            check_points(tmp_path / "cloud.bin", layout)
            points = load_sweeps([tmp_path / "cloud.bin"], np.eye(4)[None], np.zeros(1), layout=layout, own_vehicle=0.0)
            np.testing.assert_allclose(points[:, :3], self.cloud()[:, :3], atol=1e-4)
            np.testing.assert_allclose(points[:, 3], self.cloud()[:, 3] / 255.0, atol=1e-6)

    def test_intensities_of_another_scale(self, tmp_path: Path) -> None:
        cloud = self.cloud()
        cloud[:, 3] *= 257
        cloud.astype(np.float32).tofile(tmp_path / "cloud.bin")
        with pytest.raises(ValueError, match=r"have an intensity outside 0\.\.\.255"):
            check_points(tmp_path / "cloud.bin", PointLayout())
        layout = PointLayout(max_intensity=65535.0)
        check_points(tmp_path / "cloud.bin", layout)
        points = load_sweeps([tmp_path / "cloud.bin"], np.eye(4)[None], np.zeros(1), layout=layout, own_vehicle=0.0)
        np.testing.assert_allclose(points[:, 3], self.cloud()[:, 3] / 255.0, atol=1e-6)

    def test_columns_may_be_few_and_in_any_order(self, tmp_path: Path) -> None:
        np.array([[3.0, 1.0, 2.0]], dtype=np.float32).tofile(tmp_path / "cloud.bin")
        layout = PointLayout(columns=("z", "x", "y"))
        points = load_sweeps([tmp_path / "cloud.bin"], np.eye(4)[None], np.zeros(1), layout=layout)
        assert points.tolist() == [[1.0, 2.0, 3.0, 0.0, 0.0]]
        with pytest.raises(ValueError, match="must name x, y, z once each"):
            PointLayout(columns=("x", "y", "intensity"))

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.core.records import Detections
from bevdistill_ros.model.fit import ImageTarget
from training.data.dataset import NuScenesDataset
from training.data.index.load import DataConfig, load_index
from training.data.sample import Sample
from training.show.run import TRUTH_COLOUR, ShowConfig, draw_frame, run_show

CAMERAS = ("CAM_FRONT", "CAM_BACK")


@pytest.fixture
def sample(tiny_world: Any) -> Sample:
    """The first frame of the drive: a car 10 m ahead, a barrier 5 m ahead and 10 m to the left."""
    index = load_index(DataConfig(root=tiny_world.root, version=tiny_world.version, num_sweeps=0))
    return NuScenesDataset(index, "tiny_train", cameras=CAMERAS, target=ImageTarget(height=32, width=64), num_sweeps=0)[
        0
    ]


def found(*boxes: list[float]) -> Detections:
    return Detections(
        stamp_ns=0,
        boxes=torch.tensor(boxes).reshape(-1, 9),
        scores=torch.full((len(boxes),), 0.5),
        labels=torch.zeros(len(boxes), dtype=torch.int64),
    )


def drawn(sample: Sample, detections: Detections, cameras: tuple[str, ...] = CAMERAS) -> dict[str, Any]:
    figure = draw_frame(sample, detections, cameras=cameras, grid=BevGrid(), title="a title")
    assert isinstance(figure, Figure)
    assert figure.get_suptitle().startswith("a title")
    return {axes.get_title(): axes for axes in figure.axes}


def segments_of(axes: Any, colour: str) -> np.ndarray:
    """End points (S, 2, 2) [px] of the lines of one colour."""
    collections = [entry for entry in axes.collections if isinstance(entry, LineCollection)]
    lines = [
        np.array(c.get_segments()) for c in collections if len(c.get_segments()) and to_hex(c.get_color()[0]) == colour
    ]
    return np.concatenate(lines) if lines else np.zeros((0, 2, 2))


def test_panels_and_axes_are_labelled(sample: Sample) -> None:
    panels = drawn(sample, found())
    assert set(panels) == {"CAM_FRONT", "CAM_BACK", "bird's-eye view"}
    bev = panels["bird's-eye view"]
    assert bev.get_xlabel() == "y, left of the ego [m]"
    assert bev.get_ylabel() == "x, ahead of the ego [m]"
    assert bev.get_xlim() == pytest.approx((51.2, -51.2))  # left is left
    assert bev.get_ylim() == pytest.approx((-51.2, 51.2))


def test_truth_is_drawn_where_it_is_from_above(sample: Sample) -> None:
    bev = drawn(sample, found())["bird's-eye view"]
    outlines = [
        line.get_xydata() for line in bev.lines if line.get_color() == TRUTH_COLOUR and len(line.get_xydata()) == 5
    ]
    centres = sorted(tuple(np.round(outline[:4].mean(axis=0), 3)) for outline in outlines)
    # Axes are (y, x) in the ego frame, which starts at (100, 50) and looks along global x.
    assert centres == [pytest.approx((0.0, 10.0), abs=1e-3), pytest.approx((10.0, 5.0), abs=1e-3)]
    car = min(outlines, key=lambda outline: abs(outline[:, 0]).max())
    assert np.ptp(car[:, 0]) == pytest.approx(1.9, abs=1e-3)  # width
    assert np.ptp(car[:, 1]) == pytest.approx(4.5, abs=1e-3)  # length


def test_front_of_a_box_is_marked(sample: Sample) -> None:
    """Yaw of a quarter turn: the front is on the left."""
    bev = drawn(sample, found([20.0, 0.0, 1.0, 4.0, 2.0, 1.5, math.pi / 2, 0.0, 0.0]))["bird's-eye view"]
    marks = [
        line.get_xydata() for line in bev.lines if line.get_color() != TRUTH_COLOUR and len(line.get_xydata()) == 2
    ]
    assert any(np.allclose(mark, [[0.0, 20.0], [2.0, 20.0]], atol=1e-3) for mark in marks)


def test_box_is_drawn_around_its_projection(sample: Sample) -> None:
    """The car's centre is 10 m ahead; the camera sits 1.7 m ahead, 0.1 m left and 1.5 m high, with focal length 50."""
    panels = drawn(sample, found())
    lines = segments_of(panels["CAM_FRONT"], TRUTH_COLOUR)
    low, high = lines.reshape(-1, 2).min(axis=0), lines.reshape(-1, 2).max(axis=0)
    centre = (31.5 + 50 * 0.1 / 8.3, 13.5 + 50 * (1.5 - 0.5) / 8.3)  # the ego frame lies 0.5 m above the global one
    assert (low < centre).all()
    assert (high > centre).all()
    near = 10 - 4.5 / 2 - 1.7
    assert high[0] - low[0] == pytest.approx(50 * 1.9 / near, rel=0.15)
    assert not len(segments_of(panels["CAM_BACK"], TRUTH_COLOUR))


def test_detection_has_another_colour_and_its_score(sample: Sample) -> None:
    detections = found([10.0, 0.0, 1.0, 4.0, 2.0, 1.5, 0.0, 0.0, 0.0])
    panels = drawn(sample, detections)
    bev = panels["bird's-eye view"]
    assert [text.get_text() for text in bev.texts] == ["0.50"]
    assert [text.get_text() for text in bev.get_legend().get_texts()] == ["car"]
    colours = {to_hex(c.get_color()[0]) for c in panels["CAM_FRONT"].collections if len(c.get_segments())}
    assert len(colours) == 2
    assert TRUTH_COLOUR in colours


def test_cameras_of_other_names_are_drawn_in_their_order(sample: Sample) -> None:
    panels = drawn(sample, found(), cameras=("nose", "tail"))
    assert list(panels) == ["nose", "tail", "bird's-eye view"]


def test_picture_is_as_high_as_its_cameras(sample: Sample) -> None:
    one_row, two_rows = (
        draw_frame(sample, found(), cameras=names, grid=BevGrid(), title="") for names in (("nose", "tail"), CAMERAS)
    )
    assert one_row.get_figheight() == pytest.approx(5.8)
    assert two_rows.get_figheight() == pytest.approx(2 * (2.2 + 0.4) + 0.8)  # images twice as wide as high


@pytest.mark.parametrize("source", ["tiny_teacher", "tiny_bundle"])
def test_show_writes_pictures(request: pytest.FixtureRequest, tiny_world: Any, tmp_path: Path, source: str) -> None:
    data = DataConfig(root=tiny_world.root, version=tiny_world.version, val_split="tiny_val", num_sweeps=1)
    folder = tmp_path / "pictures"
    text = run_show(
        ShowConfig(source=str(request.getfixturevalue(source)), data=data, frames=2, output=str(folder), device="cpu")
    )
    paths = sorted(folder.iterdir())
    assert [path.name for path in paths] == ["tiny_val_0000.png", "tiny_val_0003.png"]
    assert all(str(path) in text for path in paths)
    picture = cv2.imread(str(paths[1]))
    assert picture.shape[1] > picture.shape[0] > 400
    # The images of the two cameras are plain, in their own colours (BGR here).
    for colour in ((20, 40, 200), (200, 40, 20)):
        assert (np.abs(picture.astype(int) - colour).max(axis=2) < 12).mean() > 0.02


def test_a_full_disk_leaves_no_half_picture(
    tiny_world: Any, tiny_student: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    data = DataConfig(root=tiny_world.root, version=tiny_world.version, val_split="tiny_val", num_sweeps=1)
    config = ShowConfig(source=str(tiny_student), data=data, frames=1, output=str(tmp_path / "out"), device="cpu")
    request.getfixturevalue("small_files")
    with pytest.raises(OSError, match=r"^cannot write .*tiny_val_0000.png: File too large; free space"):
        run_show(config)
    assert not list((tmp_path / "out").iterdir())

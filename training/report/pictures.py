"""Pictures of a frame for a page: each camera on its own, the bird's-eye view, and a film of a scene from above."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bevdistill_ros.core.files import atomic_file
from bevdistill_ros.core.grid import BevGrid
from training.report.scenes import Scene, Scenes
from training.show.run import CAMERA_ROWS, draw_bev, draw_camera

_BEV_INCHES, _DPI = 7.0, 100
_FILM_INCHES = 6.4
_GRID = BevGrid()
MISSED, FALSE = "#e02020", "#ff8c00"
FILM_TYPE = "webm"  # VP8: browsers play it, and OpenCV writes it without further programs


def write_cameras(scene: Scene, cameras: Sequence[str], folder: Path, stem: str) -> list[tuple[str, Path]]:
    """A picture per camera that took one, in the order in which they lie side by side; names and files."""
    rows = [name for row in CAMERA_ROWS for name in row if name in cameras]
    written = []
    for name in [*rows, *(name for name in cameras if name not in rows)]:
        place = list(cameras).index(name)
        height, width = scene.sample.cameras.images.shape[-2:]
        figure = Figure(figsize=(2 * width / _DPI, 2 * height / _DPI), dpi=_DPI)
        axes = figure.add_axes((0, 0, 1, 1))
        draw_camera(axes, scene.sample, scene.detections, place, "")
        path = folder / f"{stem}_{name}.jpg"
        _write(path, _pixels(figure))
        written.append((name, path))
    return written


def write_bev(scene: Scene, folder: Path, stem: str) -> Path:
    """The frame from above, what was missed and what is wrong ringed."""
    path = folder / f"{stem}_bev.png"
    _write(path, _pixels(_bev_figure(scene, "", _BEV_INCHES)))
    return path


def write_film(scenes: Scenes, tokens: Sequence[str], stamps_us: Sequence[int], title: str, path: Path) -> Path:
    """A film of frames from above, as fast as they were taken; returns a picture of its beginning.

    Args:
        scenes: Where they are from.
        tokens: Of the samples, in the order of time.
        stamps_us: Of the samples [µs].
        title: In the pictures.
        path: To write to.

    Raises:
        OSError: OpenCV can't write it.
    """
    seconds = np.diff(stamps_us).mean() / 1e6 if len(stamps_us) > 1 else 0.5
    pictures = _film(scenes, tokens, stamps_us, title)
    first = next(pictures)
    with atomic_file(path) as partial:
        plain = partial.with_suffix(f".{FILM_TYPE}")  # OpenCV chooses the container by the name
        try:
            size = (first.shape[1], first.shape[0])
            with _quiet():
                writer = cv2.VideoWriter(str(plain), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"VP80"), 1 / seconds, size)
            if not writer.isOpened():
                raise OSError(f"cannot write {path}: OpenCV here has no VP8; leave the film out with --film none")
            for picture in (first, *pictures):
                writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
            writer.release()
            plain.replace(partial)
        finally:
            plain.unlink(missing_ok=True)
    poster = path.with_suffix(".png")
    _write(poster, first)
    return poster


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what OpenCV writes to standard error away; it says that WebM has no four-letter codes, which is so."""
    sys.stderr.flush()
    kept = os.dup(2)
    with Path(os.devnull).open("wb") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _film(scenes: Scenes, tokens: Sequence[str], stamps_us: Sequence[int], title: str) -> Iterator[NDArray[np.uint8]]:
    for token, stamp_us in zip(tokens, stamps_us, strict=True):
        scene = scenes.frame(token, with_images=False)
        yield _pixels(_bev_figure(scene, f"{title}, {(stamp_us - stamps_us[0]) / 1e6:.1f} s", _FILM_INCHES))


def _bev_figure(scene: Scene, title: str, inches: float) -> Figure:
    figure = Figure(figsize=(inches, inches), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    draw_bev(axes, scene.sample, scene.detections, _GRID)
    _ring(axes, scene.sample.boxes[scene.missed, :2].numpy(), MISSED, "missed")
    _ring(axes, scene.detections.boxes[~scene.hit, :2].numpy(), FALSE, "false")
    axes.set_title(title)
    axes.legend(fontsize=7, loc="upper right", framealpha=0.9)
    return figure


def _ring(axes: Axes, centres: NDArray[np.float32], colour: str, words: str) -> None:
    """Rings around places x, y (N, 2) of the ego frame, with an entry in the legend."""
    axes.scatter(centres[:, 1], centres[:, 0], s=110, facecolors="none", edgecolors=colour, linewidths=1.3, label=words)


def _pixels(figure: Figure) -> NDArray[np.uint8]:
    """RGB (H, W, 3) with even sides, which video needs."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    return np.ascontiguousarray(pixels[: pixels.shape[0] // 2 * 2, : pixels.shape[1] // 2 * 2])


def _write(path: Path, pixels: NDArray[np.uint8]) -> None:
    done, coded = cv2.imencode(path.suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    assert done, "OpenCV writes JPEG and PNG"
    with atomic_file(path) as partial:
        partial.write_bytes(coded.tobytes())

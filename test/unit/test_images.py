from pathlib import Path

import cv2
import numpy as np
import pytest

from training.data.images import read_image


def picture(height: int = 60, width: int = 100) -> np.ndarray:
    """Smooth RGB ramps, so that scaled decoding can be compared."""
    rows, cols = np.mgrid[0:height, 0:width]
    return np.stack([rows * 255 / height, cols * 255 / width, 128 + 0 * rows], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_image_comes_back_as_rgb(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image.{suffix}"
    cv2.imwrite(str(path), picture()[:, :, ::-1])
    read = read_image(path, (60, 100), 100)
    assert read.shape == (60, 100, 3)
    assert np.abs(read.astype(int) - picture()).max() < 12


@pytest.mark.parametrize(
    ("width", "shape"),
    [(100, (60, 100)), (51, (60, 100)), (50, (30, 50)), (26, (30, 50)), (25, (15, 25)), (3, (15, 25))],
)
def test_image_much_larger_than_needed_is_decoded_small(tmp_path: Path, width: int, shape: tuple[int, int]) -> None:
    path = tmp_path / "image.jpg"
    cv2.imwrite(str(path), picture()[:, :, ::-1])
    read = read_image(path, (60, 100), width)
    assert read.shape[:2] == shape
    wanted = cv2.resize(picture(), shape[::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(read.astype(int) - wanted).mean() < 3


def test_odd_size_may_be_rounded_when_halved(tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    cv2.imwrite(str(path), picture(61, 101))
    assert read_image(path, (61, 101), 20).shape[0] in (15, 16)


def test_padding_behind_the_end_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    cv2.imwrite(str(path), picture())
    path.write_bytes(path.read_bytes() + bytes(100))
    assert read_image(path, (60, 100), 100).shape == (60, 100, 3)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_cut_file_is_refused(tmp_path: Path, suffix: str, kept: float) -> None:
    path = tmp_path / f"image.{suffix}"
    cv2.imwrite(str(path), picture())
    content = path.read_bytes()
    path.write_bytes(content[: min(int(kept * len(content)), len(content) - 1)])
    with pytest.raises(ValueError, match="is cut off or damaged"):
        read_image(path, (60, 100), 100)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_cut_file_is_refused_where_the_decoder_would_fill_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """Whether a decoder fills up with grey or gives up depends on its build."""
    path = tmp_path / f"image.{suffix}"
    cv2.imwrite(str(path), picture())
    content = path.read_bytes()
    monkeypatch.setattr(cv2, "imdecode", lambda *_: np.full((60, 100, 3), 128, dtype=np.uint8))
    assert read_image(path, (60, 100), 100).shape == (60, 100, 3)
    path.write_bytes(content[: len(content) - len(content) // 10])
    with pytest.raises(ValueError, match="is cut off or damaged"):
        read_image(path, (60, 100), 100)


def test_file_that_is_no_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    path.write_text("404: not found")
    with pytest.raises(ValueError, match="is cut off or damaged"):
        read_image(path, (60, 100), 100)


def test_orientation_tag_does_not_turn_the_image(tmp_path: Path) -> None:
    """Calibration belongs to the sensor's rows and columns."""
    path = tmp_path / "image.jpg"
    cv2.imwrite(str(path), picture())
    content = path.read_bytes()
    tag = bytes.fromhex("45786966000049492a000800000001001201030001000000060000000000 0000")
    path.write_bytes(content[:2] + b"\xff\xe1" + (len(tag) + 2).to_bytes(2, "big") + tag + content[2:])
    assert cv2.imread(str(path)).shape[:2] == (100, 60)
    assert read_image(path, (60, 100), 100).shape[:2] == (60, 100)

"""Ways of reading images are compared on the same frames."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from training.benchmark.decode import WAYS, DecodeConfig, read_by_area, read_whole, run_decode


def test_ways_of_reading_end_at_the_same_size(tmp_path: Path) -> None:
    rows, cols = np.mgrid[0:90, 0:160]
    picture = np.stack([rows, cols, 0 * rows], axis=-1).astype(np.uint8)
    path = tmp_path / "image.jpg"
    cv2.imwrite(str(path), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])
    assert read_whole(path, (90, 160), 40).shape == (90, 160, 3)
    small = read_by_area(path, (90, 160), 32)
    assert small.shape == (18, 32, 3)
    np.testing.assert_allclose(small[..., 1].mean(axis=0), np.arange(32) * 5 + 2, atol=1.5)


@pytest.mark.slow
def test_each_way_has_its_score(tiny_student: Path, tmp_path: Path) -> None:
    config = DecodeConfig(
        source=str(tiny_student),
        root=tmp_path / "world",
        image_height=180,
        image_width=320,
        scenes=1,
        frames=2,
        output=tmp_path / "out",
        device="cpu",
        num_workers=0,
        progress=False,
    )
    lines = run_decode(config).splitlines()
    assert lines[0].split() == ["320x180,", "2", "frames", "NDS", "mAP"]
    for line, name in zip(lines[1:4], WAYS, strict=True):
        assert line.startswith(name)
    assert all(0 <= float(value) <= 1 for line in lines[1:4] for value in line.split()[-2:])
    whole, reduced = (float(line.split()[-2]) for line in lines[2:4])
    name, _, change = lines[4].rpartition(" ")
    assert name == "change of NDS by decoding at a reduced size:"
    assert float(change) == pytest.approx(reduced - whole, abs=2e-4)
    assert len(list((tmp_path / "out").rglob("metrics.json"))) == 3


def test_a_teacher_has_no_images_to_decode(tiny_teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a teacher"):
        run_decode(DecodeConfig(source=str(tiny_teacher), root=tmp_path, scenes=1, frames=1, progress=False))

import struct
import zlib

import cv2
import numpy as np
import pytest
import torch

from bevdistill_ros.core.image_size import MAX_ASPECT, MAX_PIXELS, check_image_size
from bevdistill_ros.core.text import one_line, quote
from bevdistill_ros.inference.decode import decode_image, image_size
from bevdistill_ros.model.fit import ImageTarget
from bevdistill_ros.model.preprocess import preprocess


def png(rows: int, cols: int) -> bytes:
    """A grey PNG of zeros, which takes next to nothing."""
    head = struct.pack(">IIBBBBB", cols, rows, 8, 0, 0, 0, 0)
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(bytes(cols + 1)) for _ in range(rows)) + packer.flush()

    def part(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", data) + part(b"IEND", b"")


@pytest.mark.parametrize("form", [".jpg", ".png"])
@pytest.mark.parametrize("flags", [[], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]])
def test_the_head_states_the_size(form: str, flags: list[int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (37, 61, 3), dtype=np.uint8)
    done, content = cv2.imencode(form, pixels, flags if form == ".jpg" else [])
    assert done
    assert image_size(content.tobytes()) == (37, 61)
    assert decode_image(content.tobytes(), nominal_width=61, width=61).shape == (37, 61, 3)


def test_the_size_of_a_thumbnail_is_not_that_of_the_image() -> None:
    _, small = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))
    _, large = cv2.imencode(".jpg", np.zeros((40, 60, 3), np.uint8))
    thumbnail = b"\xff\xe1" + struct.pack(">H", len(small) + 2) + small.tobytes()
    content = large.tobytes()
    assert image_size(content[:2] + thumbnail + content[2:]) == (40, 60)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xd8", b"\xff\xd8" + b"\xff" * 50, b"\xff\xd8" + b"\xff\xe0\x00\x00" * 20, b"\x89PNG", bytes(99)],
)
def test_what_states_no_size(content: bytes) -> None:
    with pytest.raises(ValueError, match="does not state its size"):
        image_size(content)


def test_a_bomb_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    content = png(12_000, 12_000)
    assert len(content) < 300_000
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(ValueError, match=r"image of 12000x12000 has 144\.0 million pixels, but at most 20 million"):
        decode_image(content, nominal_width=12_000, width=800)
    monkeypatch.undo()
    assert decode_image(png(50, 60), nominal_width=60, width=60, max_pixels=3000).shape == (50, 60, 3)
    with pytest.raises(ValueError, match="max_image_pixels raises this"):
        decode_image(png(50, 60), nominal_width=60, width=60, max_pixels=2999)


@pytest.mark.parametrize("size", [(60_000, 1), (1, 60_000), (MAX_ASPECT * 8 + 1, 8)])
def test_thin_images_are_not_scaled(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="is too thin to be a camera's"):
        preprocess(
            [np.zeros((*size, 3), np.uint8)],
            torch.eye(3, dtype=torch.float64)[None],
            torch.eye(4, dtype=torch.float64)[None],
            [size],
            target=ImageTarget(height=256, width=320),
        )


def test_sizes() -> None:
    check_image_size(900, 1600)
    check_image_size(MAX_PIXELS // 5000, 5000)
    check_image_size(65_500, 65_500, max_pixels=65_500**2)
    with pytest.raises(ValueError, match="has no pixels"):
        check_image_size(0, 5)


def test_a_quotation_is_short_and_on_one_line() -> None:
    assert quote("frame") == "'frame'"
    assert quote([1, 2]) == "[1, 2]"
    assert quote("a\n[ERROR] forged\x1b[31m") == "'a\\n[ERROR] forged\\x1b[31m'"
    assert len(quote("x" * 10**6)) == 202
    assert len(quote("\n" * 10**6)) == 202
    assert one_line(ValueError("two\n  lines")) == "two lines"
    assert one_line(ValueError()) == "ValueError"
    assert len(one_line("x " * 10**6)) == 200

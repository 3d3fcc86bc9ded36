"""Both decoders give the same pixels; what is cut off is refused by both."""

import cv2
import numpy as np
import pytest

from bevdistill_ros.inference import decode
from bevdistill_ros.inference.decode import decode_image, is_complete

needs_simplejpeg = pytest.mark.skipif(decode.simplejpeg is None, reason="needs simplejpeg")


def jpeg(height: int = 90, width: int = 160, *flags: int) -> bytes:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (9, 16, 3), dtype=np.uint8)
    picture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return bytes(cv2.imencode(".jpg", picture, flags)[1])


@pytest.fixture(params=["simplejpeg", "opencv"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "opencv":
        monkeypatch.setattr(decode, "simplejpeg", None)
    elif decode.simplejpeg is None:
        pytest.skip("needs simplejpeg")
    return str(request.param)


@needs_simplejpeg
@pytest.mark.parametrize("size", [(90, 160), (91, 161), (93, 167)])
@pytest.mark.parametrize("width", [160, 80, 75, 40, 10])
@pytest.mark.parametrize("flags", [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x111111)])
def test_decoders_agree_to_the_bit(
    size: tuple[int, int], width: int, flags: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = jpeg(*size, *flags)
    fast = decode_image(content, nominal_width=size[1], width=width)
    monkeypatch.setattr(decode, "simplejpeg", None)
    plain = decode_image(content, nominal_width=size[1], width=width)
    assert fast.shape == plain.shape
    assert np.array_equal(fast, plain)


@pytest.mark.parametrize(("width", "wanted"), [(160, 160), (81, 160), (80, 80), (41, 80), (40, 40), (1, 40)])
def test_no_fewer_columns_than_needed(width: int, wanted: int, decoder: str) -> None:
    assert decode_image(jpeg(), nominal_width=160, width=width).shape == (-(-wanted * 9 // 16), wanted, 3)


def test_image_smaller_than_nominal_is_never_enlarged(decoder: str) -> None:
    assert decode_image(jpeg(45, 80), nominal_width=160, width=160).shape == (45, 80, 3)


def test_grey_image_becomes_colour(decoder: str) -> None:
    content = bytes(cv2.imencode(".jpg", np.full((16, 24), 99, np.uint8))[1])
    assert decode_image(content, nominal_width=24, width=24).tolist() == np.full((16, 24, 3), 99).tolist()


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_cut_jpeg_is_refused(kept: float, decoder: str) -> None:
    content = jpeg()
    with pytest.raises(ValueError, match="is cut off"):
        decode_image(content[: int(kept * len(content))], nominal_width=160, width=160)


def test_garbage_between_start_and_end_is_refused(decoder: str) -> None:
    with pytest.raises(ValueError, match="image is damaged"):
        decode_image(b"\xff\xd8" + b"\xff\xda" + bytes(200) + b"\xff\xd9", nominal_width=160, width=160)


def test_end_of_a_thumbnail_is_not_the_end_of_the_image() -> None:
    thumbnail, whole = jpeg(18, 32), jpeg()
    with_thumbnail = whole[:2] + b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail + whole[2:]
    assert is_complete(with_thumbnail)
    assert not is_complete(with_thumbnail[:-200])
    assert not is_complete(whole[:2] + thumbnail[:-2])

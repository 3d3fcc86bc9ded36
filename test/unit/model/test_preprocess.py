from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch

from bevdistill_ros.model.fit import FitPolicy, ImageTarget
from bevdistill_ros.model.preprocess import preprocess as preprocess_to

K = torch.tensor([[[1000.0, 0.0, 799.5], [0.0, 1000.0, 449.5], [0.0, 0.0, 1.0]]], dtype=torch.float64)
LEVEL = torch.eye(4, dtype=torch.float64)  # a camera 1.5 m above ground that looks straight ahead
LEVEL[:3, :3] = torch.tensor([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
LEVEL[2, 3] = 1.5


def preprocess(  # type: ignore[no-untyped-def]  # the types of the function itself
    images, intrinsics, sizes, *, height: int, width: int, policy: FitPolicy = "top", fill=(0, 0, 0), **others
):
    """Cameras that look straight ahead."""
    target = ImageTarget(height=height, width=width, policy=policy, fill=fill)
    return preprocess_to(images, intrinsics, LEVEL.repeat(len(intrinsics), 1, 1), sizes, target=target, **others)


def dot_image(height: int, width: int, row: int, col: int, size: int) -> np.ndarray:
    """Black, with a white square of `size` px whose middle lies at (col, row) + (size - 1) / 2."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[row : row + size, col : col + size] = 255
    return image


def centre_of_light(image: torch.Tensor) -> tuple[float, float]:
    """Mean u, v [px] of the light in (3, H, W)."""
    light = image.double().sum(0)
    v, u = torch.meshgrid(torch.arange(light.shape[0]), torch.arange(light.shape[1]), indexing="ij")
    return float((u * light).sum() / light.sum()), float((v * light).sum() / light.sum())


@pytest.mark.parametrize("height", [208, 225, 256])  # top rows cut off; just right; padded
def test_a_point_stays_on_its_ray(height: int) -> None:
    image = dot_image(900, 1600, row=600, col=1000, size=20)
    ray = torch.linalg.inv(K[0]) @ torch.tensor([1009.5, 609.5, 1.0], dtype=torch.float64)
    images, intrinsics, valid = preprocess([image], K, [(900, 1600)], height=height, width=400)
    u, v, depth = intrinsics[0] @ ray
    assert images.shape == (1, 3, height, 400)
    assert images.dtype == torch.uint8
    assert intrinsics.dtype == torch.float64
    assert valid.tolist() == [True]
    assert depth == 1.0
    assert centre_of_light(images[0]) == pytest.approx((float(u), float(v)), abs=0.02)


def test_intrinsics_by_hand() -> None:
    _, intrinsics, _ = preprocess([None], K, [(900, 1600)], height=128, width=320)
    # s = 0.2: 1600x900 -> 320x180, 52 rows cut off; cx = 0.2 * 800 - 0.5, cy = 0.2 * 450 - 0.5 - 52.
    expected = torch.tensor([[200.0, 0.0, 159.5], [0.0, 200.0, 37.5], [0.0, 0.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(intrinsics[0], expected)


def test_the_bottom_is_padded_with_black() -> None:
    white = np.full((90, 160, 3), 255, dtype=np.uint8)
    images, _, _ = preprocess([white], K, [(90, 160)], height=96, width=160)
    assert (images[0, :, :90] == 255).all()
    assert (images[0, :, 90:] == 0).all()


def test_the_top_is_cut_off() -> None:
    image = np.repeat(np.arange(90, dtype=np.uint8)[:, None, None], 160, axis=1).repeat(3, axis=2)
    images, _, _ = preprocess([image], K, [(90, 160)], height=64, width=160)
    assert images[0, 0, :, 0].tolist() == list(range(26, 90))


def test_colours_keep_their_order() -> None:
    image = np.zeros((90, 160, 3), dtype=np.uint8)
    image[..., 0] = 200
    images, _, _ = preprocess([image], K, [(90, 160)], height=90, width=160)
    assert images[0, :, 5, 5].tolist() == [200, 0, 0]


def test_an_image_decoded_at_half_scale_has_the_same_geometry() -> None:
    half = dot_image(450, 800, row=300, col=500, size=10)
    images, intrinsics, _ = preprocess([half], K, [(900, 1600)], height=225, width=400)
    _, full_intrinsics, _ = preprocess([dot_image(900, 1600, 600, 1000, 20)], K, [(900, 1600)], height=225, width=400)
    torch.testing.assert_close(intrinsics, full_intrinsics)
    assert centre_of_light(images[0]) == pytest.approx((252.0, 152.0), abs=0.02)  # 0.25 * (1009.5 + 0.5) - 0.5


def test_a_missing_camera_is_black_and_not_valid_but_keeps_its_place() -> None:
    image = np.full((90, 160, 3), 7, dtype=np.uint8)
    images, intrinsics, valid = preprocess([None, image], K.repeat(2, 1, 1), [(90, 160)] * 2, height=90, width=160)
    assert valid.tolist() == [False, True]
    assert int(images[0].max()) == 0
    assert int(images[1].min()) == 7
    torch.testing.assert_close(intrinsics[0], intrinsics[1])


def test_inputs_are_left_alone() -> None:
    image, intrinsics = dot_image(90, 160, 10, 10, 5), K.clone()
    preprocess([image], intrinsics, [(90, 160)], height=45, width=80)
    assert torch.equal(intrinsics, K)
    assert image.sum() == 25 * 3 * 255


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((90, 160), dtype=np.uint8), "uint8"),
        (np.zeros((90, 160, 3), dtype=np.float32), "float32"),
        (np.zeros((120, 160, 3), dtype=np.uint8), "another aspect"),
    ],
)
def test_images_of_another_kind_are_refused(image: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        preprocess([image], K, [(90, 160)], height=45, width=80)


def test_counts_must_agree() -> None:
    with pytest.raises(ValueError, match="2 images need"):
        preprocess([None, None], K, [(90, 160)], height=45, width=80)


def street(height: int, width: int) -> np.ndarray:
    """Smooth picture without a symmetry."""
    rows, cols = np.mgrid[0:height, 0:width] / np.array([height, width]).reshape(2, 1, 1)
    colours = [rows, cols * cols, 0.5 + 0.5 * np.sin(6 * rows + 9 * cols)]
    return (255 * np.stack(colours, axis=-1)).astype(np.uint8)


@pytest.mark.parametrize("width", [1600, 1100, 704, 320, 176])
def test_scaling_in_two_steps_is_close_to_the_mean_over_the_area(width: int) -> None:
    image = street(900, 1600)
    rows = 900 * width // 1600
    wanted = cv2.resize(image, (width, rows), interpolation=cv2.INTER_AREA)
    found, _, _ = preprocess([image], K, [(900, 1600)], height=rows, width=width)
    assert np.abs(found[0].permute(1, 2, 0).numpy().astype(int) - wanted).max() <= 2


def test_every_pixel_of_the_image_counts_however_small_it_becomes() -> None:
    """Bilinear alone looks at four pixels and would miss most of a fine pattern."""
    chequered = (np.indices((800, 1600)).sum(axis=0) % 2 * 255).astype(np.uint8)
    found, _, _ = preprocess([np.stack([chequered] * 3, axis=-1)], K, [(800, 1600)], height=100, width=200)
    assert found.float().mean() == pytest.approx(127.5, abs=1)
    assert found.float().std() < 1


def test_a_used_buffer_is_overwritten_and_returned() -> None:
    images, sizes = [street(90, 160), None, street(180, 160)], [(90, 160), (90, 160), (180, 160)]
    fresh, _, _ = preprocess(images, K.repeat(3, 1, 1), sizes, height=96, width=160)
    buffer = torch.full((3, 3, 96, 160), 77, dtype=torch.uint8)
    found, _, _ = preprocess(images, K.repeat(3, 1, 1), sizes, height=96, width=160, out=buffer)
    assert found is buffer
    assert torch.equal(buffer, fresh)


def test_threads_change_nothing() -> None:
    images = [street(900, 1600), None, street(450, 800)]
    arguments = (images, K.repeat(3, 1, 1), [(900, 1600)] * 3)
    alone, _, _ = preprocess(*arguments, height=256, width=704)
    with ThreadPoolExecutor(3) as pool:
        together, _, _ = preprocess(*arguments, height=256, width=704, run=pool.map)
    assert torch.equal(alone, together)


def test_a_bad_image_is_told_from_a_thread_too() -> None:
    with ThreadPoolExecutor(2) as pool, pytest.raises(ValueError, match=r"image 1 .* another aspect"):
        preprocess(
            [street(90, 160), street(90, 90)], K.repeat(2, 1, 1), [(90, 160)] * 2, height=45, width=80, run=pool.map
        )


@pytest.mark.parametrize("shape", [(2, 3, 45, 80), (1, 3, 80, 45), (1, 45, 80, 3)])
def test_a_buffer_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"out must be uint8 \(1, 3, 45, 80\)"):
        preprocess([None], K, [(90, 160)], height=45, width=80, out=torch.zeros(shape, dtype=torch.uint8))

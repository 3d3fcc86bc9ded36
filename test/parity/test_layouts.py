"""The public network as a whole against ours, frame by frame: features to BEV, predictions and boxes; images to boxes.

A test that compares is worth what it catches: at the end, single mistakes are put in, and each must be seen.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from layouts import Layout
from torch import Tensor

from bevdistill_ros.inference.frame import frame_from_images
from bevdistill_ros.model.postprocess import detections_from
from bevdistill_ros.model.public_bevformer import PublicBevFormer
from bevdistill_ros.model.public_geometry import PublicGeometry, PublicGeometryFinder
from bevdistill_ros.model.records import BevMemory, CameraInput, SetPrediction, StudentOutput
from training.weights import public_map

pytestmark = pytest.mark.real
UNIT, METRES = 1e-5, 1e-4
SEEN = 0.02  # a mistake changes a result by at least this much
NAMES = ("tiny", "base")
FRAMES = ("second", "second_turn")
CENTRES = {"at100": (100.0, 100.0), "atgrid": (3.5, 3.0)}  # x, y [cells]
VARIANTS = [f"{frame}.{moved}.{centre}" for frame in FRAMES for moved in ("one", "both") for centre in CENTRES]


@pytest.fixture(scope="module")
def layouts(parity: Path) -> dict[str, Layout]:
    return {name: Layout(parity, name) for name in NAMES}


@dataclass
class Answer:
    """What a student says of a frame, from its image features on."""

    cameras: CameraInput
    bev: Tensor
    own_frame: SetPrediction  # codes in the LiDAR frame
    predictions: SetPrediction  # in the ego frame
    geometry: PublicGeometry


def answer(student: PublicBevFormer, layout: Layout, frame: str, previous: BevMemory | None = None) -> Answer:
    cameras = layout.cameras(frame)
    geometry = student.geometry.of(cameras, previous)
    assert isinstance(geometry, PublicGeometry)
    bev = student.encoder(layout.levels(frame), geometry, previous and previous.bev)
    own = student.decoder([bev])
    return Answer(cameras, bev, own, student.in_ego(own), geometry)


def variant_of(variant: str) -> dict[str, Any]:
    """The settings that a variant stands for."""
    _, moved, centre = variant.split(".")
    return {"shift_both": moved == "both", "rotate_centre": CENTRES[centre]}


def second_frame(layout: Layout, variant: str, student: PublicBevFormer | None = None) -> Answer:
    """What a student says of a second frame, with the public code's own BEV of the first one as its past."""
    student = student or layout.student(**variant_of(variant))
    bev = public_bev(layout, "first")
    pose = layout.cameras("first").global_from_ego
    past = BevMemory(bev=bev, global_from_ego=pose, present=torch.ones(1, dtype=torch.bool))
    return answer(student, layout, variant.split(".")[0], past)


def public_bev(layout: Layout, tag: str) -> Tensor:
    """The public BEV as our map (1, C, rows, cols)."""
    own = layout.settings
    return layout.outputs[f"{tag}.bev_embed"][:, 0].T.reshape(1, -1, own["bev_rows"], own["bev_cols"])


def public_codes(layout: Layout, tag: str) -> Tensor:
    """The public codes with our yaw, in the LiDAR frame."""
    codes = layout.outputs[f"{tag}.all_bbox_preds"].clone()
    codes[..., 6], codes[..., 7] = -codes[..., 7], -codes[..., 6].clone()
    return codes


def differences(found: Answer, layout: Layout, tag: str) -> dict[str, float]:
    """Largest absolute difference of each result."""
    expected = {
        "bev": (found.bev, public_bev(layout, tag)),
        "logits": (found.own_frame.logits, layout.outputs[f"{tag}.all_cls_scores"]),
        "codes": (found.own_frame.codes, public_codes(layout, tag)),
        "ego_state": (found.geometry.ego_state[0], layout.outputs[f"{tag}.can_bus_at_head"]),
    }
    return {name: float((first - second).abs().max()) for name, (first, second) in expected.items()}


def assert_equal(found: Answer, layout: Layout, tag: str) -> None:
    result = differences(found, layout, tag)
    assert result["bev"] < UNIT
    assert result["logits"] < UNIT
    assert result["ego_state"] < UNIT
    assert result["codes"] < METRES


def assert_same_boxes(predictions: SetPrediction, student: PublicBevFormer, layout: Layout, tag: str) -> None:
    """Boxes in the ego frame, as the devkit's `Box` carries them there; order and labels are the same."""
    limit = layout.settings["max_num"]
    found = detections_from(predictions, [0], max_detections=limit, grid=student.config.region)[0]
    expected = layout.outputs[f"{tag}.boxes_ego"]
    assert torch.equal(found.labels, layout.outputs[f"{tag}.labels"])
    torch.testing.assert_close(found.scores, layout.outputs[f"{tag}.scores"], atol=UNIT, rtol=0)
    metres = [0, 1, 2, 3, 4, 5, 7, 8]
    torch.testing.assert_close(found.boxes[:, metres], expected[:, metres].float(), atol=METRES, rtol=0)
    turned = found.boxes[:, 6] - expected[:, 6]
    torch.testing.assert_close(turned.cos(), torch.ones_like(turned), atol=UNIT, rtol=0)
    assert float(turned.sin().abs().max()) < METRES


@pytest.mark.parametrize("memory", ["rotate_shift", "warp"])
@pytest.mark.parametrize("shift_both", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_a_first_frame(name: str, shift_both: bool, memory: str, layouts: dict[str, Layout]) -> None:
    layout = layouts[name]
    student = layout.student(memory=memory, shift_both=shift_both)
    found = answer(student, layout, "first")
    assert_equal(found, layout, "first")
    assert_same_boxes(found.predictions, student, layout, "first")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", NAMES)
def test_a_frame_with_a_past(name: str, variant: str, layouts: dict[str, Layout]) -> None:
    layout = layouts[name]
    student = layout.student(**variant_of(variant))
    found = second_frame(layout, variant, student)
    assert_equal(found, layout, variant)
    assert_same_boxes(found.predictions, student, layout, variant)


@pytest.mark.parametrize("name", NAMES)
def test_a_past_that_is_not_there_is_a_first_frame(name: str, layouts: dict[str, Layout]) -> None:
    layout = layouts[name]
    student = layout.student()
    anything = torch.full_like(public_bev(layout, "first"), 3.0)
    pose = layout.cameras("second").global_from_ego
    past = BevMemory(bev=anything, global_from_ego=pose, present=torch.zeros(1, dtype=torch.bool))
    assert_equal(answer(student, layout, "first", past), layout, "first")


@pytest.mark.parametrize("variant", ["second.one.at100", "second_turn.one.atgrid"])
@pytest.mark.parametrize("name", NAMES)
def test_intermediate_results(name: str, variant: str, layouts: dict[str, Layout]) -> None:
    """These say at which step a network differs."""
    layout = layouts[name]
    student = layout.student(**variant_of(variant))
    traced: dict[str, Tensor] = {}

    def keep(tag: str) -> Callable[[Any, Any, Tensor], None]:
        return lambda module, inputs, output: traced.update({tag: output})

    for index, layer in enumerate(student.encoder.layers):
        layer.register_forward_hook(keep(f"encoder.{index}"))
    for index, layer in enumerate(student.decoder.layers):
        layer.register_forward_hook(keep(f"decoder.{index}"))
    found = second_frame(layout, variant, student)
    state = student.encoder.ego_state(found.geometry.ego_state)
    torch.testing.assert_close(state, layout.outputs[f"{variant}.trace.can_bus_mlp"], atol=UNIT, rtol=0)
    torch.testing.assert_close(found.geometry.shift[:, 0], layout.outputs[f"{variant}.trace.shift"], atol=UNIT, rtol=0)
    for tag, value in traced.items():
        expected = layout.outputs[f"{variant}.trace.{tag}"]
        expected = expected.transpose(0, 1) if tag.startswith("decoder") else expected
        torch.testing.assert_close(value, expected, atol=UNIT, rtol=0)


def test_images_to_boxes(layouts: dict[str, Layout]) -> None:
    """The base layout from its raw images: colours, padding, backbone and pyramid as well."""
    layout = layouts["base"]
    student = layout.student()
    output = student(camera_input(layout, student, "first"))
    assert float((output.bev - public_bev(layout, "first")).abs().max()) < UNIT
    assert float((output.predictions.logits - layout.outputs["first.all_cls_scores"]).abs().max()) < UNIT
    assert_same_boxes(output.predictions, student, layout, "first")


@pytest.mark.parametrize("variant", ["second.both.at100", "second_turn.both.atgrid"])
def test_images_to_boxes_of_a_drive(variant: str, layouts: dict[str, Layout]) -> None:
    layout = layouts["base"]
    student = layout.student(**variant_of(variant))
    first = camera_input(layout, student, "first")
    output = student(first)
    past = BevMemory(bev=output.bev, global_from_ego=first.global_from_ego, present=torch.ones(1, dtype=torch.bool))
    output = student(camera_input(layout, student, variant.split(".")[0]), past)
    assert_same_boxes(output.predictions, student, layout, variant)


def test_images_that_are_halved(layouts: dict[str, Layout]) -> None:
    """The tiny layout halves its images, the public code after normalising: grey levels are rounded once less there."""
    layout = layouts["tiny"]
    student = layout.student()
    normalised = layout.inputs["first.network_input"]
    features = student.pyramid(student.backbone(normalised))[0]
    torch.testing.assert_close(features, layout.inputs["first.features.0"][0, :1], atol=UNIT, rtol=0)
    found = student._normalised(camera_input(layout, student, "first").images)[:1]
    assert float((found - normalised).abs().mean()) < 0.02
    raw = layout.settings["raw_image_height"] // 2
    assert not found[:, :, raw:].any()  # padding is exactly zero
    output = student(camera_input(layout, student, "first"))
    assert float((output.predictions.logits - layout.outputs["first.all_cls_scores"]).abs().max()) < 0.05


def camera_input(layout: Layout, student: PublicBevFormer, frame: str) -> CameraInput:
    """A frame from its raw images, through the same preprocessing as everywhere."""
    raw = layout.rig(frame)
    shown = frame.split("_")[0]
    pictures = layout.inputs[f"{shown}.images"].permute(0, 2, 3, 1).contiguous().numpy()
    found = frame_from_images(
        list(pictures),
        stamp_ns=0,
        names=raw.names,
        intrinsics=raw.intrinsics.numpy(),
        sizes=[raw.image_size] * len(raw.names),
        ego_from_camera=raw.ego_from_camera.numpy(),
        mountings=raw.ego_from_camera.numpy(),
        global_from_ego=layout.cameras(frame).global_from_ego[0].numpy(),
        target=student.config.images,
    )
    rig = found.rig.image_from_ego().float()[None]
    return replace(layout.cameras(frame, found.images), image_from_ego=rig)


# Single mistakes, each with the layouts in which it must be seen.


def swapped_cameras(layout: Layout) -> Answer:
    order = list(layout.settings["cameras"])
    weights = dict(layout.weights)
    key = "pts_bbox_head.transformer.cams_embeds"
    weights[key] = weights[key][[1, 0, *range(2, len(order))]]
    student = layout.student()
    student.encoder.camera_embedding.copy_(weights[key])
    return second_frame(layout, "second.both.at100", student)


def dropped_quirk(layout: Layout) -> Answer:
    return second_frame(layout, "second.both.at100", layout.student(shift_both=False))


def other_centre(layout: Layout) -> Answer:
    return second_frame(layout, "second.both.at100", layout.student(rotate_centre=CENTRES["atgrid"]))


def other_memory(layout: Layout) -> Answer:
    return second_frame(layout, "second.both.at100", layout.student(memory="warp"))


def swapped_shift(layout: Layout) -> Answer:
    student = layout.student()
    finder = student.geometry
    assert isinstance(finder, PublicGeometryFinder)
    right = finder._shift
    finder._shift = lambda state: right(state).flip(-1)  # type: ignore[method-assign]
    return second_frame(layout, "second.both.at100", student)


def swapped_position(layout: Layout) -> Answer:
    student = layout.student()
    right = student.encoder._position
    half = layout.settings["channels"] // 2
    student.encoder._position = lambda: right().roll(half, dims=-1)  # type: ignore[assignment]
    return second_frame(layout, "second.both.at100", student)


def points_before_heights(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> Answer:
    monkeypatch.setattr(public_map, "heights_first", lambda *shape: lambda value: value)
    return second_frame(layout, "second.both.at100")


def unturned_yaw(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> Answer:
    monkeypatch.setattr(public_map, "yaw_turned", lambda value: value)
    found = second_frame(layout, "second.both.at100", layout.student())
    return found


def level_lidar(layout: Layout) -> Answer:
    """The LiDAR's tilt left out: an error of 2.5 % of a metre per metre."""
    x, y, z = (layout.ego_from_lidar[row, 3] for row in range(3))
    pose = (0.0, 1.0, 0.0, x, -1.0, 0.0, 0.0, y, 0.0, 0.0, 1.0, z, 0.0, 0.0, 0.0, 1.0)
    return second_frame(layout, "second.both.at100", layout.student(ego_from_model=pose))


def half_a_pixel(layout: Layout) -> Answer:
    right = layout.config().pixel_offset
    return second_frame(layout, "second.both.at100", layout.student(pixel_offset=right + 0.5))


def no_ego_motion(layout: Layout) -> Answer:
    student = layout.student()
    cameras = replace(layout.cameras("first"), motion=None)
    geometry = student.geometry.of(cameras)
    bev = student.encoder(layout.levels("first"), geometry, None)
    own = student.decoder([bev])
    assert isinstance(geometry, PublicGeometry)
    return Answer(cameras, bev, own, student.in_ego(own), geometry)


def own_cells_as_current_map(layout: Layout) -> Answer:
    student = layout.student()
    right = student.encoder._maps
    student.encoder._maps = (  # type: ignore[method-assign, assignment]
        lambda current, past: [right(current, past)[0], current]
    )
    return second_frame(layout, "second.both.at100", student)


MISTAKES: list[Callable[..., Answer]] = [
    swapped_cameras,
    dropped_quirk,
    other_centre,
    other_memory,
    swapped_shift,
    swapped_position,
    points_before_heights,
    unturned_yaw,
    level_lidar,
    half_a_pixel,
    no_ego_motion,
    own_cells_as_current_map,
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda entry: entry.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_a_mistake_is_seen(
    name: str, mistake: Callable[..., Answer], layouts: dict[str, Layout], monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = layouts[name]
    takes_patch = mistake in (points_before_heights, unturned_yaw)
    found = mistake(layout, monkeypatch) if takes_patch else mistake(layout)
    tag = "first" if mistake is no_ego_motion else "second.both.at100"
    result = differences(found, layout, tag)
    assert max(result["bev"], result["logits"], result["codes"]) > SEEN


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def test_outputs_are_records(layouts: dict[str, Layout]) -> None:
    layout = layouts["base"]
    student = layout.student()
    output = student(camera_input(layout, student, "first"))
    assert isinstance(output, StudentOutput)
    assert output.bev.dtype == torch.float32

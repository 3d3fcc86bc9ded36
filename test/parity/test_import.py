"""Published checkpoints as bundles: names, kinds, refusals, and the way to evaluation."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from nuscenes.utils.data_classes import Box
from published import BASE, DISTILL_R50, SMALL, TINY, Published
from pyquaternion import Quaternion
from torch import Tensor

from bevdistill_ros.core.boxes import encode_boxes
from bevdistill_ros.core.geometry import matrix_from_quaternion, transform_from
from bevdistill_ros.inference.bundle import load_bundle
from bevdistill_ros.model.postprocess import detections_from
from bevdistill_ros.model.public_bevformer import PublicBevFormer
from bevdistill_ros.model.public_config import PUBLIC_CAMERAS, PublicStudentConfig
from bevdistill_ros.model.records import SetPrediction
from training.cli.commands import main
from training.weights import public, public_kinds
from training.weights.public import public_student, read_public
from training.weights.public_kinds import PUBLIC_KINDS, KindFacts, facts_of, public_config

SMALL_PART = {"stem": 2, "channels": 16, "heads": 2, "hidden": 32, "decoder_layers": 2, "queries": 12}


class Shrunk(KindFacts):
    """A kind of the same layout with fewer channels and cells."""

    def settings(self) -> dict[str, Any]:
        return {
            **super().settings(),
            "backbone_width": 2,
            "embed_dim": 16,
            "num_heads": 2,
            "feedforward_dim": 32,
            "decoder_layers": 2,
            "num_queries": 12,
        }


@pytest.fixture
def shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """All kinds with few channels, 10 to 40 cells and small images."""
    for kind in PUBLIC_KINDS:
        facts = facts_of(kind)
        small = Shrunk(**{**facts.__dict__, "cells": facts.cells // 5, "image_scale": facts.image_scale / 10})
        monkeypatch.setitem(public_kinds._FACTS, kind, small)


def shrunk_state(published: Published, **changes: Any) -> dict[str, Tensor]:
    fields = {**published.__dict__, **SMALL_PART, "rows": published.rows // 5, "cols": published.cols // 5, **changes}
    return Published(**fields).state()


SHRUNK_OF = {"bevformer_tiny": TINY, "bevformer_small": SMALL, "bevformer_base": BASE, "bevdistill_t_r50": DISTILL_R50}


@pytest.fixture
def rig_file(tmp_path: Path) -> Path:
    """A vehicle with two of nuScenes' cameras."""
    looks = {"CAM_FRONT": [0.5, -0.5, 0.5, -0.5], "CAM_BACK": [0.5, -0.5, -0.5, 0.5]}
    cameras = [
        {
            "name": name,
            "intrinsics": [[800.0, 0.0, 799.5], [0.0, 800.0, 449.5], [0.0, 0.0, 1.0]],
            "ego_from_camera": transform_from(np.array(quaternion), np.array([1.0, 0.0, 1.5])).tolist(),
        }
        for name, quaternion in looks.items()
    ]
    path = tmp_path / "rig.yaml"
    path.write_text(yaml.safe_dump({"image_size": [900, 1600], "cameras": cameras}))
    return path


@pytest.fixture
def command(tmp_path: Path, rig_file: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs `bevdistill import-weights` on a file; returns what it printed, of a refusal the one line."""

    def run(content: Any, *, kind: str = "bevformer_tiny", ok: bool = False, options: tuple[str, ...] = ()) -> str:
        path = tmp_path / "public.pth"
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            torch.save(content, path)
        words = ["--checkpoint", str(path), "--kind", kind, "--output", str(tmp_path / "bundle"), *options]
        if not options:
            words += ["--rig", str(rig_file)]
        status = main(["import-weights", *words])
        printed = capsys.readouterr()
        assert status == (0 if ok else 1), printed.err
        if ok:
            return printed.out
        assert not (tmp_path / "bundle").exists()
        lines = printed.err.strip().splitlines()
        assert len(lines) == 1, printed.err
        return lines[0]

    return run


@pytest.mark.real
@pytest.mark.parametrize("name", ["tiny", "base"])
def test_names_and_shapes_are_those_of_the_public_code(name: str, parity: Path) -> None:
    description = json.loads((parity / f"{name}.json").read_text())
    own, backbone = description["settings"], description["settings"]["backbone"]
    shapes = Published(
        backbone=f"resnet{backbone['depth']}",
        stem=backbone["base_channels"],
        stages=tuple(index + 1 for index in backbone["out_indices"]),
        deformable=(3, 4) if backbone["dcn"] else (),
        levels=own["image_levels"],
        rows=own["bev_rows"],
        cols=own["bev_cols"],
        channels=own["channels"],
        heads=own["heads"],
        hidden=own["feedforward_channels"],
        encoder_layers=own["encoder_layers"],
        decoder_layers=own["decoder_layers"],
        queries=own["queries"],
        cameras=len(own["cameras"]),
    ).shapes()
    known = {name: tuple(shape) for name, shape in description["state_dict"].items()}
    assert shapes == known


@pytest.mark.parametrize(("kind", "published"), SHRUNK_OF.items(), ids=list(SHRUNK_OF))
def test_each_kind_takes_its_own_tensors_and_names_the_right_kind_for_others(
    kind: str, published: Published, shrunk: None
) -> None:
    state = shrunk_state(published)
    student = public_student(state, kind)  # type: ignore[arg-type]
    assert not [name for name, value in student.state_dict().items() if not value.isfinite().all()]
    other = "bevformer_small" if kind == "bevformer_tiny" else "bevformer_tiny"
    with pytest.raises(ValueError, match=f"holds a {kind}, not a {other}; set --kind {kind}$"):
        public_student(state, other)  # type: ignore[arg-type]


def test_counters_that_old_files_lack_are_zero(shrunk: None, recwarn: pytest.WarningsRecorder) -> None:
    state = {name: value for name, value in shrunk_state(TINY).items() if not name.endswith("num_batches_tracked")}
    student = public_student(state, "bevformer_tiny")
    counters = [value for name, value in student.state_dict().items() if name.endswith("num_batches_tracked")]
    assert counters
    assert not any(value.any() for value in counters)
    assert not [entry for entry in recwarn if "meta" in str(entry.message)]


def test_the_real_sizes_are_those_of_the_kinds() -> None:
    """Shapes alone, in no memory."""
    for kind, published in SHRUNK_OF.items():
        config = public_config(kind)  # type: ignore[arg-type]
        buffers = ("running_mean", "running_var", "num_batches_tracked")
        state = public._expected(config)
        parameters = sum(value.numel() for name, value in state.items() if not name.endswith(buffers))
        levels_unused = (4 - published.levels) * published.channels
        own_past = published.encoder_layers * published.channels * (published.channels + 1)
        reference = 3 * published.channels + 3 - 3 * published.queries
        trained = sum(
            math.prod(shape)
            for name, shape in published.shapes().items()
            if not name.endswith((*buffers, "code_weights"))
        )
        assert parameters == trained - levels_unused + own_past - reference


def test_a_bundle_comes_of_a_checkpoint(command: Callable[..., str], shrunk: None, tmp_path: Path) -> None:
    state = shrunk_state(TINY)
    printed = command({"meta": {}, "state_dict": state}, ok=True)
    assert printed.splitlines()[-1] == f"bundle: {tmp_path / 'bundle'}"
    bundle = load_bundle(tmp_path / "bundle")
    config = bundle.student.config
    assert isinstance(config, PublicStudentConfig)
    assert config.cameras == ("CAM_FRONT", "CAM_BACK")
    assert bundle.manifest.provenance["kind"] == "bevformer_tiny"
    assert bundle.manifest.provenance["imported"] == "public.pth"
    assert len(bundle.manifest.provenance["sha256"]) == 64
    rows = state["pts_bbox_head.transformer.cams_embeds"][[0, 3]]  # of front and back in the public order
    assert torch.equal(bundle.student.state_dict()["encoder.camera_embedding"], rows)
    assert (config.image_height, config.image_width, config.padding) == (64, 96, (19, 16))
    assert bundle.manifest.rig.intrinsics[0, 0, 0] == pytest.approx(800 * 0.05)


@pytest.mark.parametrize("prefix", ["module.", "student.", "module.student."])
def test_prefixes_of_trainers_are_taken_off(prefix: str, command: Callable[..., str], shrunk: None) -> None:
    state = {f"{prefix}{name}": value for name, value in shrunk_state(TINY).items()}
    if "student" in prefix:
        state["teacher.pts_backbone.weight"] = torch.zeros(3)
        state["cl_head.weight"] = torch.zeros(3)
    state["ema_img_backbone_conv1_weight"] = torch.zeros(3)
    assert "bundle:" in command({"state_dict": state}, ok=True)


def test_a_student_of_bevdistill_is_read_with_its_classes_and_extra_heads(
    command: Callable[..., str], shrunk: None, tmp_path: Path
) -> None:
    state = {f"student.{name}": value for name, value in shrunk_state(DISTILL_R50).items()}
    state["student.pts_bbox_head.shared_conv.conv.weight"] = torch.zeros(2)
    state["student.pts_bbox_head.task_heads.0.heatmap.0.conv.weight"] = torch.zeros(2)
    command({"state_dict": state}, kind="bevdistill_t_r50", ok=True)
    weights = load_bundle(tmp_path / "bundle").student.state_dict()
    logits = state["student.pts_bbox_head.cls_branches.1.6.bias"]
    # car truck trailer bus construction_vehicle bicycle motorcycle pedestrian traffic_cone barrier, as ours
    assert torch.equal(weights["decoder.class_heads.1.6.bias"], logits[[0, 1, 4, 3, 2, 9, 6, 5, 7, 8]])


def test_the_order_of_classes_that_a_file_says_counts(
    command: Callable[..., str], shrunk: None, tmp_path: Path
) -> None:
    state = shrunk_state(TINY)
    names = ("barrier", *facts_of("bevformer_tiny").classes[:5], *facts_of("bevformer_tiny").classes[6:])
    command({"meta": {"CLASSES": names}, "state_dict": state}, ok=True)
    bias = load_bundle(tmp_path / "bundle").student.state_dict()["decoder.class_heads.0.6.bias"]
    assert bias[5] == state["pts_bbox_head.cls_branches.0.6.bias"][0]


class TestRefusals:
    """Each is one line that names what is wrong."""

    def test_wrong_kind(self, command: Callable[..., str], shrunk: None) -> None:
        line = command({"state_dict": shrunk_state(BASE)})
        assert line.endswith("public.pth holds a bevformer_base, not a bevformer_tiny; set --kind bevformer_base")

    def test_unknown_kind(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        words = ["--checkpoint", "x.pth", "--output", str(tmp_path), "--rig", "r.yaml", "--kind", "bevformer_huge"]
        assert main(["import-weights", *words]) == 2
        assert "kind must be one of bevformer_tiny, bevformer_small, bevformer_base" in capsys.readouterr().err

    def test_missing_keys(self, command: Callable[..., str], shrunk: None) -> None:
        state = shrunk_state(TINY)
        for name in [name for name in state if "can_bus_mlp" in name]:
            del state[name]
        line = command({"state_dict": state})
        assert "is not a bevformer_tiny: tensors 6 missing (pts_bbox_head.transformer.can_bus_mlp.0.weight" in line

    def test_extra_keys(self, command: Callable[..., str], shrunk: None) -> None:
        state = shrunk_state(TINY) | {f"depth_net.{index}.weight": torch.zeros(1) for index in range(5)}
        line = command({"state_dict": state})
        expected = "tensors 5 not known (depth_net.0.weight, depth_net.1.weight, depth_net.2.weight, ...)"
        assert line.endswith(expected)

    def test_another_shape(self, command: Callable[..., str], shrunk: None) -> None:
        state = shrunk_state(TINY) | {"pts_bbox_head.bev_embedding.weight": torch.zeros(99, 16)}
        line = command({"state_dict": state})
        assert "pts_bbox_head.bev_embedding.weight makes (99, 16) instead of (100, 16)" in line

    def test_seven_cameras(self, command: Callable[..., str], shrunk: None) -> None:
        line = command({"state_dict": shrunk_state(TINY, cameras=7)})
        assert "cams_embeds of shape (7, 16) does not fit: has 7 rows, but 6 names go with them" in line

    def test_eleven_classes(self, command: Callable[..., str], shrunk: None) -> None:
        state = shrunk_state(TINY)
        for layer in range(2):
            state[f"pts_bbox_head.cls_branches.{layer}.6.weight"] = torch.zeros(11, 16)
            state[f"pts_bbox_head.cls_branches.{layer}.6.bias"] = torch.zeros(11)
        assert "has 11 rows, but 10 names go with them" in command({"state_dict": state})

    def test_another_class_list(self, command: Callable[..., str], shrunk: None) -> None:
        content = {"meta": {"CLASSES": ("Car", "Pedestrian", "Cyclist")}, "state_dict": shrunk_state(TINY)}
        assert "was trained for other classes: Car, Pedestrian, Cyclist; this program has car, truck" in command(
            content
        )

    def test_truncated_file(self, command: Callable[..., str], shrunk: None, tmp_path: Path) -> None:
        torch.save({"state_dict": shrunk_state(TINY)}, tmp_path / "whole.pth")
        content = (tmp_path / "whole.pth").read_bytes()
        assert "public.pth is damaged" in command(content[: len(content) // 2])

    def test_pickle_with_code(self, command: Callable[..., str], shrunk: None, tmp_path: Path) -> None:
        class Trap:
            def __reduce__(self) -> tuple[object, tuple[str]]:
                return Path.touch, (str(tmp_path / "sprung"),)

        line = command({"state_dict": shrunk_state(TINY), "hook": Trap()})
        assert "public.pth holds objects of" in line
        assert not (tmp_path / "sprung").exists()

    def test_no_file(self, command: Callable[..., str]) -> None:
        assert "no checkpoint at" in command(None)

    def test_lidar_teacher(self, command: Callable[..., str], shrunk: None) -> None:
        line = command({"state_dict": {"pts_middle_encoder.conv.weight": torch.zeros(1)}})
        assert "holds a LiDAR detector, not a camera student; use it as a teacher" in line

    def test_something_else(self, command: Callable[..., str], shrunk: None) -> None:
        assert "holds no BEVFormer: it has no tensor img_backbone.*" in command({"state_dict": {"a": torch.zeros(1)}})

    def test_not_finite(self, command: Callable[..., str], shrunk: None) -> None:
        state = shrunk_state(TINY)
        state["img_backbone.conv1.weight"][0] = float("nan")
        assert "not finite, in 1 tensors (first: img_backbone.conv1.weight)" in command({"state_dict": state})

    def test_cameras_of_other_names(self, command: Callable[..., str], shrunk: None, rig_file: Path) -> None:
        rig_file.write_text(rig_file.read_text().replace("CAM_FRONT", "front").replace("CAM_BACK", "rear"))
        line = command({"state_dict": shrunk_state(TINY)})
        assert "none of the cameras front, rear has a name of nuScenes" in line

    def test_no_cameras(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        words = ["--checkpoint", "x.pth", "--output", str(tmp_path), "--kind", "bevformer_tiny"]
        assert main(["import-weights", *words]) == 2
        assert "give either root, a data set with the cameras of the vehicle, or rig" in capsys.readouterr().err


def test_a_box_of_the_lidar_frame_comes_back_as_the_devkits_box_says() -> None:
    """A LiDAR tilted by 1.4 degrees about both axes: centre, heading, velocity and height, 40 m away."""
    rotation = Quaternion(axis=[0, 0, 1], degrees=-89.3) * Quaternion(axis=[1, 0.5, 0], degrees=1.43)
    translation = np.array([0.943713, 0.01, 1.84023])
    pose = transform_from(rotation.elements, translation)
    config = PublicStudentConfig(
        ego_from_model=tuple(pose.flatten().tolist()), backbone_width=2, embed_dim=16, num_heads=2
    )
    generator = np.random.default_rng(0)
    boxes = np.zeros((12, 9), dtype=np.float32)
    boxes[:, :2], boxes[:, 2] = generator.uniform(-40, 40, (12, 2)), generator.uniform(-2, 1, 12)
    boxes[:, 3:6], boxes[:, 6] = generator.uniform(0.5, 5, (12, 3)), generator.uniform(-3.1, 3.1, 12)
    boxes[:, 7:] = generator.uniform(-9, 9, (12, 2))
    codes = encode_boxes(torch.from_numpy(boxes))[None, None]
    logits = torch.full((1, 1, 12, 10), -9.0)
    logits[0, 0, :, 0] = torch.linspace(3, -3, 12)  # so that the order stays
    turned = PublicBevFormer(config).in_ego(
        SetPrediction(logits=logits, codes=codes, features=torch.zeros(1, 1, 12, 4))
    )
    found = detections_from(turned, [0], max_detections=12, grid=config.region)[0].boxes.double().numpy()
    for box, (x, y, z, length, width, height, yaw, vx, vy) in zip(found, boxes.astype(np.float64), strict=True):
        devkit = Box([x, y, z], [width, length, height], Quaternion(axis=[0, 0, 1], radians=yaw), velocity=(vx, vy, 0))
        devkit.rotate(rotation)
        devkit.translate(translation)
        ahead = matrix_from_quaternion(devkit.orientation.elements)[:, 0]
        np.testing.assert_allclose(box[:3], devkit.center, atol=1e-4)
        np.testing.assert_allclose(box[3:6], [length, width, height], rtol=1e-5)
        np.testing.assert_allclose(box[7:], devkit.velocity[:2], atol=1e-4)
        turned_by = box[6] - math.atan2(ahead[1], ahead[0])
        assert math.cos(turned_by) == pytest.approx(1.0, abs=1e-6)


def test_boxes_out_of_range_are_dropped_in_the_lidar_frame() -> None:
    """61 m ahead of the LiDAR is inside, 62 m is not, though both lie beyond the BEV map."""
    config = PublicStudentConfig()
    points = torch.tensor([[61.0 + 0.94, 0.0, 1.0], [62.0 + 0.94, 0.0, 1.0], [0.94, 61.0, 1.0], [0.94, 0.0, 12.0]])
    assert config.region.contains(points).tolist() == [True, False, True, False]


def test_a_state_says_its_classes(tmp_path: Path, shrunk: None) -> None:
    torch.save({"state_dict": shrunk_state(TINY)}, tmp_path / "a.pth")
    assert read_public(tmp_path / "a.pth")[1] is None
    assert PUBLIC_CAMERAS[0] == "CAM_FRONT"


@pytest.mark.parametrize("kind", ["bevdistill_t_r50", pytest.param("bevformer_base", marks=pytest.mark.slow)])
def test_engines_reproduce_it(kind: str, command: Callable[..., str], shrunk: None, rig_file: Path) -> None:
    """The exported network, deformable convolutions and a past among it, in ONNX Runtime."""
    options = ("--rig", str(rig_file), "--engines", "onnx")
    printed = command({"state_dict": shrunk_state(SHRUNK_OF[kind])}, kind=kind, ok=True, options=options)
    assert "engine onnx: reproduces torch" in printed


@pytest.mark.slow
@pytest.mark.openvino
def test_engines_reproduce_deformable_convolutions_without_grid_sample(
    command: Callable[..., str], shrunk: None, rig_file: Path, tmp_path: Path
) -> None:
    kind = "bevdistill_t_r50"
    options = ("--rig", str(rig_file), "--engines", "onnx,openvino", "--sampling", "gather")
    printed = command({"state_dict": shrunk_state(SHRUNK_OF[kind])}, kind=kind, ok=True, options=options)
    assert "engine onnx: reproduces torch" in printed
    assert "engine openvino: reproduces torch" in printed
    (network,) = tmp_path.rglob("network.onnx")
    assert "GridSample" not in {node.op_type for node in onnx.load(network).graph.node}

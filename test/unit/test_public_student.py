"""A public student on its way through the product: evaluation, training, a start for ours."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_cuda import FakeCuda
from published import TINY, Published

from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.core.records import CameraFrame
from bevdistill_ros.inference.bundle import Bundle, load_bundle, save_bundle
from bevdistill_ros.inference.engine import Engine
from bevdistill_ros.inference.engine_choice import EngineChoice
from bevdistill_ros.inference.engines import choice
from bevdistill_ros.model.public_bevformer import PublicBevFormer
from bevdistill_ros.model.public_config import PublicStudentConfig
from training.data.augment import _augment_motion
from training.data.index.load import DataConfig, load_index
from training.data.motion import motion_of, twist_between
from training.data.sample import _motion_of, collate
from training.evaluate.run import EvaluateConfig, evaluate
from training.export.run import ExportConfig, run_export, training_rig
from training.run.config import TrainConfig
from training.run.data import train_dataset
from training.run.fit import build_module, fit, with_bundled_student
from training.weights.model import load_student
from training.weights.public import public_student

MakeRun = Callable[..., TrainConfig]
WIDTH = {"stem": 4, "channels": 16, "heads": 2, "hidden": 16, "decoder_layers": 2, "queries": 12}
PUBLISHED = Published(**{**TINY.__dict__, **WIDTH, "rows": 8, "cols": 8, "encoder_layers": 1})


@pytest.fixture(scope="session")
def public_bundle(tiny_world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundle of a tiny public student with the cameras of the tiny database."""
    index = load_index(DataConfig(root=tiny_world.root, version="v1.0-tiny", num_sweeps=0))
    student = public_student(
        PUBLISHED.state(),
        "bevformer_tiny",
        cameras=("CAM_FRONT", "CAM_BACK"),
        grid=BevGrid(rows=8, cols=8),
        model_grid=PublicStudentConfig().model_grid.with_cells(8, 8),
        image_height=64,
        image_width=64,
        padding=(28, 0),
        pixel_offset=0.0,
        backbone_width=4,
        embed_dim=16,
        num_heads=2,
        feedforward_dim=16,
        encoder_layers=1,
        decoder_layers=2,
        num_queries=12,
    )
    rig = training_rig(index, "tiny_train", student.config)
    folder = tmp_path_factory.mktemp("public") / "bundle"
    return save_bundle(folder, student, name="public", version="1", rig=rig, provenance={})


def test_a_manifest_names_the_architecture(public_bundle: Path, tmp_path: Path) -> None:
    content = json.loads((public_bundle / "manifest.json").read_text())
    assert (content["format_version"], content["architecture"]) == (2, "public")
    assert content["preprocessing"]["resize"].startswith("whole image inside of the input")
    assert isinstance(load_bundle(public_bundle).student, PublicBevFormer)


def test_a_bundle_of_format_1_still_loads(tiny_bundle: Path, tmp_path: Path) -> None:
    """As they were written: without an architecture, and without settings that came with format 2."""
    folder = tmp_path / "old"
    folder.mkdir()
    for file in tiny_bundle.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    content = json.loads((folder / "manifest.json").read_text())
    content["format_version"] = 1
    del content["architecture"]
    for name in ("backbone_style", "backbone_deformable_stages", "image_fit"):
        del content["student"][name]
    content["preprocessing"]["resize"] = "to the width; cut rows off the top, add black rows at the bottom"
    (folder / "manifest.json").write_text(json.dumps(content))
    old, new = load_bundle(folder), load_bundle(tiny_bundle)
    assert old.manifest.student == replace(new.manifest.student, image_fit="top")  # type: ignore[type-var]


def test_an_unknown_architecture_is_refused(public_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    for file in public_bundle.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    content = json.loads((folder / "manifest.json").read_text()) | {"architecture": "petr"}
    (folder / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="architecture must be one of bevdistill, public, but is 'petr'"):
        load_bundle(folder)


def test_it_is_evaluated(public_bundle: Path, tiny_world: Any, tmp_path: Path) -> None:
    data = DataConfig(root=tiny_world.root, version="v1.0-tiny", num_sweeps=0)
    config = EvaluateConfig(
        source=str(public_bundle), data=data, split="tiny_val", output=str(tmp_path), num_workers=0, progress=False
    )
    assert evaluate(config).nds >= 0.0
    assert json.loads((tmp_path / "results.json").read_text())["results"]


def frame_of(bundle: Bundle, motion: torch.Tensor | None = None, *, stamp_ns: int = 0, x: float = 0.0) -> CameraFrame:
    rig = bundle.manifest.rig
    generator = torch.Generator().manual_seed(1)
    shape = (len(rig.names), 3, *rig.image_size)
    pose = torch.eye(4, dtype=torch.float64)
    pose[0, 3] = x
    return CameraFrame(
        stamp_ns=stamp_ns,
        images=torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8),
        rig=rig,
        global_from_ego=pose,
        valid=torch.ones(len(rig.names), dtype=torch.bool),
        motion=motion,
    )


def test_the_engine_hands_ego_motion_to_the_network(public_bundle: Path) -> None:
    """Known motion counts, unknown motion counts as zeros."""
    bundle = load_bundle(public_bundle)
    engine = Engine(bundle, EngineChoice(device="cpu"))
    unknown = engine.infer(frame_of(bundle))
    engine.reset()
    zeros = engine.infer(frame_of(bundle, torch.zeros(9)))
    engine.reset()
    driving = engine.infer(frame_of(bundle, torch.tensor([0.0] * 6 + [9.0, 0.0, 0.0])))
    assert torch.equal(unknown.scores, zeros.scores)
    assert not torch.equal(unknown.scores, driving.scores)


def test_the_engine_remembers(public_bundle: Path) -> None:
    bundle = load_bundle(public_bundle)
    engine = Engine(bundle, EngineChoice(device="cpu"))
    first = engine.infer(frame_of(bundle))
    second = engine.infer(frame_of(bundle, stamp_ns=500_000_000, x=3.0))
    assert not torch.equal(first.scores, second.scores)


def test_a_frame_and_a_training_step_stay_on_a_gpu(
    public_bundle: Path, tiny_teacher: Path, make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the fake device of test/unit/device; a frame waits twice, as that of any student."""
    monkeypatch.setattr(choice, "device_from", torch.device)
    run = make_run(
        tmp_path / "run",
        **{
            "student_bundle": str(public_bundle),
            "teacher_checkpoint": str(tiny_teacher),
            "distill.method": "fitnet",
            "data.clip_length": 2,
            "run.balance_every": 0,
        },
    )
    module = build_module(with_bundled_student(run))
    dataset = train_dataset(with_bundled_student(run))
    with FakeCuda() as device:
        bundle = load_bundle(public_bundle)
        engine = Engine(bundle, EngineChoice(engine="torch", device="cuda"))
        for number in range(2):
            with device.counted() as waits:
                engine.infer(frame_of(bundle, torch.zeros(9), stamp_ns=number * 500_000_000))
            assert len(waits) == 2
        module.to("cuda").train()
        module.objective(collate([dataset[0], dataset[1]]).to("cuda"))[0]["fitnet"].backward()


def test_the_map_is_turned_to_the_ego_frame(public_bundle: Path) -> None:
    """A cell 20 m ahead and 10 m left of the LiDAR, in the network's map and in that for comparisons."""
    student = load_bundle(public_bundle).student
    config = student.config
    assert isinstance(config, PublicStudentConfig)
    ego_from_model = torch.tensor(config.ego_from_model).reshape(4, 4)
    own = config.model_grid.cell_centres()
    bump = (-(own - torch.tensor([-10.0, 20.0])).square().sum(-1) / 200).exp()
    turned = student.map_in_ego(bump[None, None])[0, 0]
    place = ego_from_model @ torch.tensor([-10.0, 20.0, 0.0, 1.0])
    expected = (-(config.grid.cell_centres() - place[:2]).square().sum(-1) / 200).exp()
    assert float((turned - expected).abs().max()) < 0.12  # bilinear on cells of 13 m
    assert int(turned.argmax()) == int(expected.argmax())


def test_it_is_trained_on_and_distilled(
    public_bundle: Path, tiny_teacher: Path, make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run(
        tmp_path / "run",
        **{
            "student_bundle": str(public_bundle),
            "teacher_checkpoint": str(tiny_teacher),
            "distill.method": "fitnet",
            "data.clip_length": 2,
        },
    )
    checkpoint = fit(run)
    config, student = load_student(checkpoint)
    assert isinstance(student, PublicBevFormer)
    before = load_bundle(public_bundle).student.state_dict()
    moved = [name for name, value in student.state_dict().items() if not torch.equal(value, before[name])]
    assert any(name.startswith("encoder") for name in moved)
    assert config == load_bundle(public_bundle).student.config
    run_export(ExportConfig(checkpoint=str(checkpoint), output=str(tmp_path / "bundle")))
    assert isinstance(load_bundle(tmp_path / "bundle").student, PublicBevFormer)


def test_a_run_starts_from_its_weights(public_bundle: Path, make_run: MakeRun, tmp_path: Path) -> None:
    run = with_bundled_student(make_run(tmp_path, **{"student_bundle": str(public_bundle), "data.clip_length": 2}))
    weights = load_bundle(public_bundle).student.state_dict()
    state = build_module(run).model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in state.items())


def test_ours_starts_where_shapes_fit(
    public_bundle: Path, make_run: MakeRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changes = {"backbone": "resnet50", "first_stride": 32, "num_levels": 1, "temporal": True}
    settings = {f"student.{name}": value for name, value in changes.items()}
    run = make_run(tmp_path, **settings, **{"data.clip_length": 2, "run.initial_weights": str(public_bundle)})
    with caplog.at_level("INFO"):
        state = build_module(run).model.state_dict()
    weights = load_bundle(public_bundle).student.state_dict()
    assert "tensors matched" in caplog.text
    taken = [name for name, value in state.items() if name in weights and torch.equal(value, weights[name])]
    for name in ("backbone.layer4.0.conv1.weight", "pyramid.laterals.0.weight", "decoder.layers.0.norms.0.weight"):
        assert name in taken
    # what belongs to the axes of its own frame is not taken over
    for name in ("encoder.queries", "encoder.row_position", "encoder.layers.0.self_attention.sampling_offsets.weight"):
        assert name not in taken


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run.initial_weights": "x.ckpt"}, "student_bundle brings a student with its weights"),
        ({"role": "teacher"}, "student_bundle brings a student with its weights"),
        ({"data.clip_length": 1}, "there is no bundle folder"),
    ],
)
def test_settings_that_contradict_a_student_bundle(
    changes: dict[str, Any], message: str, make_run: MakeRun, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        fit(make_run(tmp_path / "run", **{"student_bundle": str(tmp_path / "none"), **changes}))


def test_motion_of_frames_side_by_side(public_bundle: Path) -> None:
    bundle = load_bundle(public_bundle)
    frame = Engine(bundle, EngineChoice(device="cpu"))._input_from(frame_of(bundle, torch.arange(9.0)))[1]
    unknown = replace(frame, motion=None)
    assert _motion_of([unknown, unknown]) is None
    both = _motion_of([frame, unknown])
    assert both is not None
    assert both.tolist() == [list(range(9)), [0.0] * 9]


def test_motion_turns_with_an_augmented_world() -> None:
    """Turned by 90 degrees, scaled by 2 and mirrored in y: turn rates keep their size and change their sense."""
    turn = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    transform = torch.eye(4, dtype=torch.float64)
    transform[:3, :3] = 2 * turn
    motion = torch.tensor([[1.0, 0, 0, 0, 0, 0.5, 8.0, 0, 0]])
    torch.testing.assert_close(
        _augment_motion(motion, transform), torch.tensor([[0.0, 2, 0, 0, 0, 0.5, 0, 16.0, 0]]), atol=1e-6, rtol=0
    )
    transform[:3, :3] = torch.diag(torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(
        _augment_motion(motion, transform), torch.tensor([[1.0, 0, 0, 0, 0, -0.5, 8.0, 0, 0]]), atol=1e-6, rtol=0
    )


def test_motion_comes_of_the_poses(tiny_world: Any) -> None:
    """The vehicle of the tiny database drives at 10 m/s along x and turns by 0.2 rad/s; it begins unknown."""
    index = load_index(DataConfig(root=tiny_world.root, version="v1.0-tiny", num_sweeps=0))
    samples = index.samples_of("tiny_train")
    first = int(samples[0])
    later = int(next(number for number in samples if index.previous[number] == first))
    assert motion_of(index, first) is None
    motion = motion_of(index, later)
    assert motion is not None
    pose, before = index.global_from_ego[later], index.global_from_ego[first]
    expected = pose[:3, :3].T @ (pose[:3, 3] - before[:3, 3]) / 0.5
    assert motion[0, :3].tolist() == pytest.approx([0.0, 0.0, 9.81])
    assert motion[0, 3:6].tolist() == pytest.approx([0.0, 0.0, 0.2], abs=1e-5)
    assert motion[0, 6:].tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert twist_between(pose, pose, 0.0) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rotate_centre": [float("nan"), 3.0]}, "rotate_centre must be finite"),
        ({"detection_range": [0.0] * 5}, "detection_range must be 6 numbers"),
        ({"ego_from_model": [1.0] * 16}, "ego_from_model must be a rigid transform"),
        ({"pixel_offset": float("nan")}, r"pixel_offset must be in \[-1, 1\]"),
        ({"padding": [64, 0]}, "padding must be within the image"),
        ({"image_height": 63}, "image_height must be a multiple of 32"),
        ({"memory": "forget"}, "memory must be one of warp, rotate_shift"),
        ({"backbone": "resnet18", "backbone_style": "caffe"}, "concern the bottlenecks"),
        ({"cameras": []}, "cameras must be different names, at least one"),
        ({"num_queries": 10**9}, "num_queries must be at most"),
    ],
)
def test_settings_that_cannot_be_right_are_refused(
    changes: dict[str, Any], message: str, public_bundle: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    for file in public_bundle.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    content = json.loads((folder / "manifest.json").read_text())
    content["student"] |= changes
    (folder / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        load_bundle(folder)

"""Wrong input at the command line: one line that names the thing and the remedy, and nothing half-written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rosbags.rosbag2 import StoragePlugin, Writer

from bevdistill_ros.interface.topics import layout_named
from training.bag.messages import standard_types
from training.bag.write_bag import SAMPLE_TOPIC, STATIC_TRANSFORM_TOPIC
from training.cli.commands import main

Arguments = Callable[..., list[str]]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., str]:
    """Runs a command that must fail with one line and leave no output folder; returns the line."""

    def run(*arguments: str, status: int = 1) -> str:
        assert main(list(arguments)) == status
        out, err = capsys.readouterr()
        assert out == ""
        lines = [line for line in err.replace("\r", "\n").splitlines() if not line.startswith(("detect:", "train:"))]
        assert len([line for line in lines if line.strip()]) == 1, err
        assert lines[-1].startswith("bevdistill: ")
        assert not (tmp_path / "out").exists()
        return lines[-1]

    return run


@pytest.fixture
def train(train_arguments: Arguments, tmp_path: Path) -> Arguments:
    """Makes the words of `bevdistill train` into the folder `out`."""
    return lambda **changes: ["train", *train_arguments(tmp_path / "out", **changes)]


@pytest.fixture
def evaluate(tiny_world: Any, tmp_path: Path) -> Arguments:
    """Makes the words of `bevdistill evaluate` into the folder `out`."""

    def make(source: Path, **changes: Any) -> list[str]:
        settings = {
            "source": source,
            "data.root": tiny_world.root,
            "data.version": tiny_world.version,
            "data.val_split": "tiny_val",
            "num_workers": 0,
            "progress": "false",
            "output": tmp_path / "out",
            **changes,
        }
        return ["evaluate", *(f"--{key}={value}" for key, value in settings.items())]

    return make


def test_missing_data_root(
    refused: Callable[..., str], train: Arguments, evaluate: Arguments, tiny_student: Path, tmp_path: Path
) -> None:
    nowhere = str(tmp_path / "nowhere")
    for words in (train(**{"data.root": nowhere}), evaluate(tiny_student, **{"data.root": nowhere})):
        line = refused(*words)
        assert f"there is no data set at {nowhere}" in line
        assert "data.root is the folder that holds samples/ and the tables" in line


def test_unknown_version_and_split(
    refused: Callable[..., str], train: Arguments, evaluate: Arguments, tiny_student: Path, tiny_bundle: Path
) -> None:
    for words in (train(**{"data.version": "v2"}), evaluate(tiny_bundle, **{"data.version": "v2"})):
        assert "has no version 'v2'; versions found there: v1.0-tiny" in refused(*words)
    for words in (train(**{"data.train_split": "tiny"}), evaluate(tiny_student, split="tiny")):
        assert "has no split 'tiny'; splits found: tiny_train, tiny_val, tiny_empty" in refused(*words)


def test_split_without_annotations(refused: Callable[..., str], evaluate: Arguments, tiny_student: Path) -> None:
    line = refused(*evaluate(tiny_student, split="tiny_empty"))
    assert "split 'tiny_empty' has no annotated box" in line


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("fault", ["missing", "cut off"])
def test_image_files(
    refused: Callable[..., str],
    train: Arguments,
    evaluate: Arguments,
    tiny: Any,
    tiny_student: Path,
    fault: str,
    workers: int,
) -> None:
    """Here and in a process that loads data."""
    for path in (tiny.root / "samples/CAM_FRONT").iterdir():
        if fault == "missing":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:-50])
    changes = {"data.root": str(tiny.root)}
    for words in (
        train(**changes, **{"run.num_workers": workers}),
        evaluate(tiny_student, **changes, num_workers=workers),
    ):
        line = refused(*words)
        assert f"image {tiny.root}/samples/CAM_FRONT/CAM_FRONT-" in line
        assert ("unpack the camera files" if fault == "missing" else "cut off or damaged") in line


@pytest.mark.parametrize("fault", ["missing", "cut off"])
def test_point_files(
    refused: Callable[..., str], train: Arguments, evaluate: Arguments, tiny: Any, tiny_teacher: Path, fault: str
) -> None:
    for path in (tiny.root / "samples/LIDAR_TOP").iterdir():
        if fault == "missing":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:-7])
    changes = {"data.root": str(tiny.root)}
    for words in (train(role="teacher", **changes), evaluate(tiny_teacher, **changes)):
        line = refused(*words)
        assert f"LiDAR file {tiny.root}/samples/LIDAR_TOP/" in line
        assert ("unpack the LiDAR files" if fault == "missing" else "is cut off") in line


def test_damaged_tables(refused: Callable[..., str], train: Arguments, tiny: Any) -> None:
    table = tiny.root / tiny.version / "ego_pose.json"
    table.write_text(table.read_text()[:-20])
    line = refused(*train(**{"data.root": str(tiny.root)}))
    assert f"cannot read the tables in {tiny.root / tiny.version}" in line
    assert "unpack the metadata again" in line


def test_unknown_key_and_wrong_type(refused: Callable[..., str], train: Arguments, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("optim: {lerning_rate: 1.0e-3}\n")
    line = refused(*train(), f"--config={file}", status=2)
    assert f"{file}: unknown setting 'optim.lerning_rate'; did you mean 'optim.learning_rate'?" in line
    assert "optim.steps must be a whole number, but is many" in refused(*train(**{"optim.steps": "many"}), status=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"format_version": 99},
            "the bundle has format version 99, this program reads 1 to 2; export the checkpoint again",
        ),
        ({"classes": ["car"]}, "the bundle was made for other classes: ['car']"),
        ({"weights": {"file": "weights.safetensors", "sha256": "0" * 64}}, "is damaged or of another bundle"),
        ({"weights": {"file": "../weights.safetensors", "sha256": "0" * 64}}, "lies outside its folder"),
        ({"format": "other"}, "does not say it is a 'bevdistill bundle'"),
    ],
)
def test_bundle_that_is_not_what_it_must_be(
    refused: Callable[..., str],
    evaluate: Arguments,
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    message: str,
) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "weights.safetensors").write_bytes((tiny_bundle / "weights.safetensors").read_bytes())
    manifest = json.loads((tiny_bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps({**manifest, **change}))
    monkeypatch.setattr("training.replay.run.check_ros", lambda: None)
    replay = ["replay", f"--bundle={bundle}", f"--output={tmp_path / 'out'}", "--bags=[x]"]
    for words in (evaluate(bundle), replay):
        line = refused(*words)
        assert f"bundle '{bundle}' is refused" in line
        assert message in line


def test_checkpoints_of_something_else(
    refused: Callable[..., str],
    train: Arguments,
    evaluate: Arguments,
    tiny_student: Path,
    tiny_teacher: Path,
    tmp_path: Path,
) -> None:
    other = {"run.initial_weights": str(tiny_student), "student.embed_dim": 32}
    assert f"{tiny_student} is of another architecture" in refused(*train(**other))
    distil = {"distill.method": "fitnet", "teacher_checkpoint": str(tiny_student)}
    assert "holds a student, but a teacher is needed" in refused(*train(**distil))
    export = ["export", f"--checkpoint={tiny_teacher}", f"--output={tmp_path / 'out'}"]
    assert "holds a teacher, but a student is needed" in refused(*export)
    cut = tmp_path / "cut.ckpt"
    cut.write_bytes(tiny_student.read_bytes()[:1000])
    assert f"checkpoint {cut} is damaged or no checkpoint" in refused(*evaluate(cut))
    assert f"no checkpoint at {tmp_path / 'none.ckpt'}" in refused(*evaluate(tmp_path / "none.ckpt"))


def test_run_that_is_there_already(
    capsys: pytest.CaptureFixture[str], train_arguments: Arguments, tiny_teacher: Path
) -> None:
    before = {path.name: path.read_bytes() for path in tiny_teacher.parent.iterdir()}
    assert main(["train", *train_arguments(tiny_teacher.parent, role="teacher")]) == 1
    assert "already holds a run; set run.resume to true" in capsys.readouterr().err
    words = train_arguments(tiny_teacher.parent, role="teacher", **{"run.resume": True, "optim.seed": 1})
    assert main(["train", *words]) == 1
    assert "was trained with optim.seed 0, not 1; resume with the configuration in" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tiny_teacher.parent.iterdir()} == before


def test_bundle_is_not_written_over_something_else(
    capsys: pytest.CaptureFixture[str], tiny_student: Path, tmp_path: Path
) -> None:
    precious = tmp_path / "out" / "precious.txt"
    precious.parent.mkdir()
    precious.write_text("keep me")
    assert main(["export", f"--checkpoint={tiny_student}", f"--output={precious.parent}"]) == 1
    assert "exists and is not a bundle; it is left alone" in capsys.readouterr().err
    assert main(["demo", f"--output={precious.parent}", "--replay=false"]) == 1
    assert "holds something other than an earlier demo" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "precious.txt"]


def test_device_that_is_not_there(refused: Callable[..., str], evaluate: Arguments, tiny_student: Path) -> None:
    assert "abacus" in refused(*evaluate(tiny_student, device="abacus"))


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("camera_info", "has no calibration of CAM_FRONT"),
        (STATIC_TRANSFORM_TOPIC, "has no /tf_static, so where the cameras sit is not known; give a rig file"),
        (SAMPLE_TOPIC, "so its key frames are not known; set frames to all"),
        ("image", "has no images of CAM_FRONT, the reference camera"),
    ],
)
def test_bag_that_lacks_a_topic(
    refused: Callable[..., str],
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lost: str,
    message: str,
) -> None:
    """It is refused before the node starts, instead of a node that waits in vain."""
    monkeypatch.setattr("training.replay.run.check_ros", lambda: None)
    layout, types = layout_named("bevdistill"), standard_types()
    cameras = ("CAM_FRONT", "CAM_BACK")
    topics = [SAMPLE_TOPIC, STATIC_TRANSFORM_TOPIC, *map(layout.image_topic, cameras)]
    topics += map(layout.camera_info_topic, cameras)
    text = types.serialize_cdr(types.types["std_msgs/msg/String"](data=""), "std_msgs/msg/String")
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        kept = [topic for topic in topics if lost not in topic]
        assert len(kept) < len(topics)
        for topic in kept:
            writer.write(writer.add_connection(topic, "std_msgs/msg/String", typestore=types), 1, bytes(text))
    line = refused("replay", f"--bundle={tiny_bundle}", f"--output={tmp_path / 'out'}", f"--bags=[{tmp_path / 'bag'}]")
    assert message in line
    assert str(tmp_path / "bag") in line


def test_bag_that_is_not_there(
    refused: Callable[..., str], tiny_bundle: Path, tiny_world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.replay.run.check_ros", lambda: None)
    replay = ["replay", f"--bundle={tiny_bundle}", f"--output={tmp_path / 'out'}"]
    assert f"bag {tmp_path / 'none'} does not exist" in refused(*replay, f"--bags=[{tmp_path / 'none'}]")
    data = [f"--root={tiny_world.root}", f"--version={tiny_world.version}"]
    assert "has no split 'tiny'" in refused(*replay, *data, "--split=tiny")
    assert "has no scene scene-lost" in refused(*replay, *data, "--scenes=[scene-lost]")

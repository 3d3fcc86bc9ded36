"""Tables whose annotations are not public: a file for the evaluation server in the place of a score."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from nuscenes.eval.common.loaders import load_prediction
from nuscenes.eval.detection.data_classes import DetectionBox
from nuscenes.nuscenes import NuScenes
from nuscenes.utils.splits import create_splits_scenes

from bevdistill_ros.core.records import Detections
from training.cli.commands import main
from training.data.index.load import DataConfig, load_index
from training.evaluate.run import EvaluateConfig, evaluate
from training.evaluate.submission import write_submission


@pytest.fixture
def unannotated(tiny: Any) -> Any:
    """The tiny database as a v1.0-test: scenes have the names of official test scenes, and nothing is annotated."""
    (tiny.root / tiny.version).rename(tiny.root / "v1.0-test")
    folder = tiny.root / "v1.0-test"
    (folder / "splits.json").unlink()
    for table in ("sample_annotation", "instance"):
        (folder / f"{table}.json").write_text("[]")
    names = create_splits_scenes()["test"]
    scenes = json.loads((folder / "scene.json").read_text())
    for scene, name in zip(scenes[:2], names, strict=False):
        scene["name"] = name
    (folder / "scene.json").write_text(json.dumps(scenes))
    return tiny


@pytest.mark.parametrize("kind", ["student", "teacher"])
def test_evaluate_writes_a_submission(
    kind: str, unannotated: Any, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {
        "source": request.getfixturevalue(f"tiny_{kind}"),
        "data.root": unannotated.root,
        "data.version": "v1.0-test",
        "split": "test",
        "output": tmp_path / "out",
        "num_workers": 0,
        "progress": "false",
    }
    assert main(["evaluate", *(f"--{key}={value}" for key, value in settings.items())]) == 0
    assert f"submission: {tmp_path}/out/results.json" in capsys.readouterr().out
    boxes, meta = load_prediction(str(tmp_path / "out" / "results.json"), 500, DetectionBox)
    nusc = NuScenes("v1.0-test", str(unannotated.root), verbose=False)
    wanted = {sample["token"] for sample in nusc.sample if sample["scene_token"] != "scene-empty"}
    assert set(boxes.sample_tokens) == wanted
    assert len(wanted) == 4
    assert all(len(boxes[token]) > 0 for token in wanted)
    assert meta == {
        "use_camera": kind == "student",
        "use_lidar": kind == "teacher",
        "use_radar": False,
        "use_map": False,
        "use_external": False,
    }


def test_scoring_without_annotations_is_refused(unannotated: Any, tiny_student: Path, tmp_path: Path) -> None:
    data = DataConfig(root=unannotated.root, version="v1.0-test", val_split="test")
    config = EvaluateConfig(source=str(tiny_student), data=data, output=str(tmp_path), num_workers=0, progress=False)
    with pytest.raises(ValueError, match="no annotated box of a detection class"):
        evaluate(config)


def test_a_sample_without_detections_is_refused(unannotated: Any, tmp_path: Path) -> None:
    index = load_index(DataConfig(root=unannotated.root, version="v1.0-test"))
    poses = index.poses_of("test")
    found = dict.fromkeys(poses, Detections.empty(0))
    assert json.loads(write_submission(found, poses, tmp_path).read_text())["results"] == {token: [] for token in poses}
    found.popitem()
    with pytest.raises(ValueError, match="1 of 4 samples have no detections"):
        write_submission(found, poses, tmp_path)


def test_a_full_disk_leaves_no_submission(unannotated: Any, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    poses = load_index(DataConfig(root=unannotated.root, version="v1.0-test")).poses_of("test")
    boxes = torch.ones(9, 9)
    found = Detections(stamp_ns=0, boxes=boxes, scores=torch.ones(9), labels=torch.zeros(9, dtype=torch.int64))
    request.getfixturevalue("small_files")
    with pytest.raises(OSError, match=r"^cannot write .*/results.json: File too large; free space"):
        write_submission(dict.fromkeys(poses, found), poses, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())

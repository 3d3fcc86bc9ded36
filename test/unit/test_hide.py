"""A database whose labels are hidden in part: which scenes keep theirs, and what is learned from the others."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from nuscenes.nuscenes import NuScenes

from bevdistill_ros.model.config import StudentConfig
from training.data.dataset import dataset_for
from training.data.hide import HideConfig, _divided, hide, run_hide
from training.data.index.load import DataConfig, load_index
from training.data.sample import collate
from training.run.data import TrainData, train_dataset
from training.run.fit import fit
from training.run.module import StudentTraining
from training.weights.checkpoint import read_weights


def settings(tiny: Any, **changes: Any) -> HideConfig:
    known = {"root": tiny.root, "version": tiny.version, "split": "tiny_val", "output_version": "v1.0-part"}
    return HideConfig(**{**known, "share": 0.5, **changes})


def test_every_so_many_scenes_keep_their_labels() -> None:
    scenes = [f"scene-{number}" for number in range(9)]
    parts = _divided(scenes, 0.25)
    assert parts["labelled"] == ["scene-3", "scene-7"]
    assert sorted(parts["labelled"] + parts["unlabelled"]) == scenes
    assert _divided(scenes, 0.0)["labelled"] == []


def test_hidden_frames_are_marked_and_the_rest_is_as_before(tiny: Any) -> None:
    assert "labelled (1 scenes), unlabelled (1 scenes)" in run_hide(settings(tiny))
    before, after = (NuScenes(version, str(tiny.root), verbose=False) for version in (tiny.version, "v1.0-part"))
    splits = json.loads((tiny.root / "v1.0-part" / "splits.json").read_text())
    assert (splits["labelled"], splits["unlabelled"]) == (["scene-drive"], ["scene-stand"])
    assert splits["tiny_train"] == ["scene-drive"]
    kept = [entry for entry in before.sample_annotation if "stand" not in entry["sample_token"]]
    assert after.sample_annotation == kept
    assert "human.pedestrian.adult" not in {entry["token"] for entry in after.instance}
    marked = {sample["token"] for sample in after.sample if sample.get("annotated") is False}
    assert marked == {"scene-stand-0"}  # and not scene-empty-0, which has none, but was labelled


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "none"}, "has no split 'none'; it has tiny_train"),
        ({"output_version": "v1.0-tiny"}, "exists already"),
        ({"output_version": "../v1.0-part"}, "must be the name of a folder"),
        ({"version": "v1.0-other"}, "no version 'v1.0-other'; versions found there: v1.0-tiny"),
    ],
)
def test_mistakes(tiny: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hide(settings(tiny, **changes))
    assert sorted(path.name for path in tiny.root.glob("v1.0-*")) == ["v1.0-tiny"]


def test_official_splits_keep_their_versions_ending(tiny: Any) -> None:
    (tiny.root / tiny.version).rename(tiny.root / "v1.0-mini")
    with pytest.raises(ValueError, match="output_version must end in mini"):
        hide(settings(tiny, version="v1.0-mini"))


def test_share_is_a_share() -> None:
    with pytest.raises(ValueError, match="share must be at least 0 and below 1"):
        HideConfig(root=".", version="v", split="s", output_version="o", share=1.0)


def test_hidden_frames_are_not_taken_for_empty_ones(tiny: Any, make_run: Any, tmp_path: Path) -> None:
    hide(settings(tiny))
    index = load_index(DataConfig(root=tiny.root, version="v1.0-part", num_sweeps=1))
    assert index.annotated.tolist() == [True, True, True, False, True]
    data = {"data.root": str(tiny.root), "data.version": "v1.0-part", "data.train_split": "unlabelled"}
    hidden = make_run(tmp_path / "run", **data, **{"student.query_selection": "heatmap", "criterion.heatmap": 1.0})
    batch = collate([train_dataset(hidden)[0]])
    torch.manual_seed(0)
    losses, bev = StudentTraining(hidden, None).terms(batch)
    assert all(float(value) == 0 for value in losses.values())
    torch.stack(list(losses.values())).sum().backward()  # nothing to learn, but no error: a batch may hold such frames
    with pytest.raises(ValueError, match=r"'unlabelled'.* has no annotated box; nothing can be learned without"):
        TrainData(hidden, 0)
    assert bev.shape[0] == 1


def test_a_student_learns_from_the_teacher_alone(
    tiny: Any, make_run: Any, tiny_teacher: Path, tiny_student: Path, tmp_path: Path
) -> None:
    hide(settings(tiny))
    data = {"data.root": str(tiny.root), "data.version": "v1.0-part", "data.train_split": "unlabelled"}
    teacher = {"distill.method": "fitnet", "teacher_checkpoint": str(tiny_teacher), "optim.weight_decay": 0.0}
    run = make_run(tmp_path / "run", **data, **teacher, **{"run.initial_weights": str(tiny_student)})
    before, after = read_weights(tiny_student), read_weights(fit(run))
    changed = {name.split(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}
    assert "encoder" in changed
    assert "decoder" not in changed  # fitnet compares maps; labels alone would teach the decoder


def test_scores_weigh_where_it_is_wanted(tiny: Any) -> None:
    path = tiny.root / tiny.version / "sample_annotation.json"
    rows = json.loads(path.read_text())
    for row in rows:
        row["score"] = 0.25 if "car" in row["token"] else 0.5
    path.write_text(json.dumps(rows))
    known = {"root": tiny.root, "version": tiny.version, "num_sweeps": 1}
    for choice, expected in (("one", {1.0}), ("score", {0.25, 0.5})):
        config = DataConfig(**known, label_weight=choice)
        student = StudentConfig(cameras=("CAM_FRONT",))
        dataset = dataset_for(config, student, load_index(config), "tiny_train", with_images=False, with_points=False)
        assert set(dataset[0].box_weights.tolist()) == expected
    rows[0]["score"] = 1.5
    path.write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=r"score must be a number in 0\.\.\.1, but is 1\.5"):
        load_index(DataConfig(**known))

"""A database whose labels are hidden in part: which scenes keep theirs, and that the devkit reads the rest."""

import json
from typing import Any

import pytest
from nuscenes.nuscenes import NuScenes

from training.data.hide import HideConfig, _divided, hide, run_hide


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

"""Cuts the scenes of a database in time, so that one recording can be trained on and scored.

Only tables are written; images and point clouds are links to those of the database.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bevdistill_ros.core.files import atomic_folder
from training.data.tables import read_tables

TRAIN_SPLIT, VAL_SPLIT = "cut_train", "cut_val"
_FOLDERS = ("samples", "sweeps", "maps")

Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class CutConfig:
    """What `bevdistill cut` cuts."""

    root: Path  # of the database, the folder that holds samples/ and the tables
    version: str  # folder of the tables
    output: Path  # folder for the database that is cut; must not exist
    frames: int  # key frames of a scene that go into the first part

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ValueError(f"frames must be at least 1, but is {self.frames}")


def cut(config: CutConfig) -> None:
    """Write the tables of a database with every scene cut in two.

    Annotations stay linked across the cut, so velocities are those of the whole recording.

    Raises:
        ValueError: There is no such database, no scene is long enough, or the output exists.
    """
    tables = read_tables(config.root, config.version)
    if config.output.exists():
        raise ValueError(f"{config.output} exists already; remove it or choose another output")
    source = config.root / config.version
    scenes, splits = _cut_scenes(tables["scene.json"], tables["sample.json"], config.frames)
    if not splits[VAL_SPLIT]:
        raise ValueError(f"no scene of {source} has more than {config.frames} key frames; choose fewer frames")
    tables |= {"scene.json": scenes, "splits.json": splits}
    with atomic_folder(config.output) as output:
        target = output / config.version
        target.mkdir(parents=True)
        for name, content in tables.items():
            (target / name).write_text(json.dumps(content, indent=1))
        for name in _FOLDERS:
            if (config.root / name).exists():
                (output / name).symlink_to((config.root / name).resolve())


def run_cut(config: CutConfig) -> str:
    """Cut; returns the closing text."""
    cut(config)
    return f"database: {config.output}, version {config.version}, splits {TRAIN_SPLIT} and {VAL_SPLIT}"


def _cut_scenes(
    scenes: Sequence[Record], samples: Sequence[Record], frames: int
) -> tuple[list[Record], dict[str, list[str]]]:
    """Scenes after the cut and the names of each split; samples are changed in place."""
    kept: list[Record] = []
    splits: dict[str, list[str]] = {TRAIN_SPLIT: [], VAL_SPLIT: []}
    for scene in scenes:
        own = [sample for sample in samples if sample["scene_token"] == scene["token"]]
        own.sort(key=lambda sample: int(sample["timestamp"]))
        for split, part in ((TRAIN_SPLIT, own[:frames]), (VAL_SPLIT, own[frames:])):
            if part:
                kept.append(_scene_of(part, scene, split))
                splits[split].append(kept[-1]["name"])
    return kept, splits


def _scene_of(part: Sequence[Record], scene: Mapping[str, Any], split: str) -> Record:
    """The scene of some samples, whose rows are updated to it."""
    ending = split.removeprefix("cut_")
    token = f"{scene['token']}-{ending}"
    for sample in part:
        sample["scene_token"] = token
    part[0]["prev"], part[-1]["next"] = "", ""
    return {
        **scene,
        "token": token,
        "name": f"{scene['name']}-{ending}",
        "nbr_samples": len(part),
        "first_sample_token": part[0]["token"],
        "last_sample_token": part[-1]["token"],
    }

"""Hides the annotations of some scenes of a split, as if nobody had labelled them: to measure what labels are worth.

Only tables are written, into a folder beside those of the database; images and point clouds stay where they are.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bevdistill_ros.core.files import atomic_folder
from training.data.tables import check_new_version, read_tables, splits_of

LABELLED, UNLABELLED = "labelled", "unlabelled"  # splits of the new version: what the split keeps and what it loses

Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class HideConfig:
    """What `bevdistill hide` hides."""

    root: Path  # of the database, the folder that holds samples/ and the tables
    version: str  # folder of the tables
    split: str  # of whose scenes some lose their annotations
    output_version: str  # folder beside them for the new tables; must not exist
    share: float = 0.25  # of the split's scenes, spread evenly over it, that keep their annotations

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise ValueError(f"share must be at least 0 and below 1, but is {self.share}")


def hide(config: HideConfig) -> dict[str, list[str]]:
    """Write the tables of a database without some annotations; returns scene names of both new splits.

    The frames without annotations are marked (`"annotated": false` in sample.json), so that a training does not take
    them for empty ones.

    Raises:
        ValueError: There is no such database or split, the new version exists, or the split is of other scenes.
    """
    tables = read_tables(config.root, config.version)
    splits = splits_of(config.root, config.version)
    if config.split not in splits:
        raise ValueError(f"{config.root / config.version} has no split '{config.split}'; it has {', '.join(splits)}")
    target = check_new_version(config.root, config.version, config.output_version)
    there = {scene["name"] for scene in tables["scene.json"]}
    parts = _divided([name for name in splits[config.split] if name in there], config.share)
    if not parts[UNLABELLED]:
        raise ValueError(f"split '{config.split}' names no scene that {config.root / config.version} holds")
    _drop_annotations(tables, parts[UNLABELLED])
    tables["splits.json"] = {**tables.get("splits.json", {}), **parts}
    with atomic_folder(target) as folder:
        for name, content in tables.items():
            (folder / name).write_text(json.dumps(content, indent=1))
    return parts


def run_hide(config: HideConfig) -> str:
    """Hide; returns the closing text."""
    parts = hide(config)
    counts = ", ".join(f"{name} ({len(scenes)} scenes)" for name, scenes in parts.items())
    return f"version {config.output_version} of {config.root}, with the splits {counts}"


def _divided(scenes: Sequence[str], share: float) -> dict[str, list[str]]:
    """The scenes that keep their annotations, spread evenly, and the others."""
    kept = [name for number, name in enumerate(scenes) if int((number + 1) * share) > int(number * share)]
    return {LABELLED: kept, UNLABELLED: [name for name in scenes if name not in kept]}


def _drop_annotations(tables: dict[str, Any], scenes: Sequence[str]) -> None:
    tokens = {scene["token"] for scene in tables["scene.json"] if scene["name"] in scenes}
    frames = {sample["token"] for sample in tables["sample.json"] if sample["scene_token"] in tokens}
    for sample in tables["sample.json"]:
        if sample["token"] in frames:
            sample["annotated"] = False
    kept = [entry for entry in tables["sample_annotation.json"] if entry["sample_token"] not in frames]
    seen = {entry["instance_token"] for entry in kept}
    tables["sample_annotation.json"] = kept
    tables["instance.json"] = [entry for entry in tables["instance.json"] if entry["token"] in seen]

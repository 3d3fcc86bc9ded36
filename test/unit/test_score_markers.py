"""Boxes found, wrong and missed as markers in a bag."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.bag.read_bag import read_bag
from training.data.tables import open_tables
from training.score.markers import COLOURS, KIND, TOPIC
from training.score.run import ScoreConfig, run_score


def box_of(annotation: dict[str, Any], name: str, *, score: float, ahead: float = 0.0) -> dict[str, Any]:
    x, y, z = annotation["translation"]
    return {
        "sample_token": annotation["sample_token"],
        "translation": [x + ahead, y, z],
        "size": annotation["size"],
        "rotation": annotation["rotation"],
        "velocity": [0.0, 0.0],
        "detection_name": name,
        "detection_score": score,
        "attribute_name": "",
    }


@pytest.fixture
def config(tiny_world: Any, tmp_path: Path) -> ScoreConfig:
    """In each of three key frames the car is found twice and the barrier is taken for a truck."""
    nusc = open_tables(tiny_world.root, tiny_world.version)
    results: dict[str, list[dict[str, Any]]] = {f"scene-drive-{number}": [] for number in range(3)}
    for annotation in nusc.sample_annotation:
        boxes = results.get(annotation["sample_token"])
        if boxes is not None and annotation["category_name"] == "vehicle.car":
            boxes += [box_of(annotation, "car", score=0.9, ahead=0.5), box_of(annotation, "car", score=0.95, ahead=1.0)]
        elif boxes is not None and annotation["category_name"] == "movable_object.barrier":
            boxes += [box_of(annotation, "truck", score=0.8)]
    meta = dict.fromkeys(("use_camera", "use_lidar", "use_radar", "use_map", "use_external"), False)
    (tmp_path / "results.json").write_text(json.dumps({"meta": meta, "results": results}))
    return ScoreConfig(
        results=tmp_path / "results.json",
        root=tiny_world.root,
        version=tiny_world.version,
        split="tiny_train",
        output=tmp_path / "score",
        markers=tmp_path / "markers",
    )


def test_each_key_frame_shows_what_was_found_wrong_and_missed(config: ScoreConfig, tiny_world: Any) -> None:
    assert f"markers: {config.markers}" in run_score(config)
    assert config.markers is not None
    arrays = list(read_bag(config.markers).decoded(TOPIC, KIND))
    assert len(arrays) == 3
    for number, (_, array) in enumerate(arrays):
        clear, *markers = array.markers
        assert clear.action == 3
        assert {marker.header.frame_id for marker in markers} == {"base_link"}
        stamp = markers[0].header.stamp
        assert stamp.sec * 10**9 + stamp.nanosec == number * 500_000_000
        boxes = {kind: [m for m in markers if m.ns == kind and not m.text] for kind in COLOURS}
        assert {kind: len(own) for kind, own in boxes.items()} == {"tp": 1, "fp": 1, "fn": 1}
        labels = sorted(marker.text for marker in markers if marker.text)
        # The better score comes first, though it is further off; the other is below the operating score of cars.
        assert labels == ["barrier", "car 0.95", "truck 0.80"]
        (hit,) = boxes["tp"]
        ego_from_global = np.linalg.inv(tiny_world.global_from_ego_at(number * 0.5))
        place = ego_from_global @ np.array([111.0 + 2.5 * number, 50.0, 1.0, 1.0])
        np.testing.assert_allclose([hit.pose.position.x, hit.pose.position.y, hit.pose.position.z], place[:3])
        assert (hit.scale.x, hit.scale.y, hit.scale.z) == (4.5, 1.9, 1.6)
        assert (hit.color.g, hit.color.a) == (pytest.approx(0.62), 0.5)
        assert len({(marker.ns, marker.id) for marker in markers}) == len(markers)


def test_a_bag_that_is_there_is_left_alone(config: ScoreConfig, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(ValueError, match="taken already exists"):
        ScoreConfig(root=config.root, results=config.results, markers=tmp_path / "taken")

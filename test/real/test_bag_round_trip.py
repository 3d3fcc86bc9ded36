"""Recorded sensor data become bags, and these become the same data again."""

from pathlib import Path

import pytest
from nuscenes import NuScenes
from same_data import assert_same_frames, assert_same_samples

from training.bag.write_command import BagWriteConfig, run_bag_write
from training.bag_import.config import BagImportConfig
from training.bag_import.run import import_bags
from training.evaluate.metrics import evaluate_results
from training.evaluate.results import Results

pytestmark = pytest.mark.real


@pytest.fixture(scope="module", params=[("nuscenes-real", "v1.0-real"), ("pandaset-a", "v1.0-pandaset")])
def pair(request: pytest.FixtureRequest, shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[NuScenes]:
    """A data set, and what comes of it through bags."""
    name, version = request.param
    folder = tmp_path_factory.mktemp(name)
    run_bag_write(BagWriteConfig(root=shared_data / name, version=version, output=folder / "bags", progress=False))
    config = BagImportConfig(bags=(folder / "bags",), root=folder / "set", num_workers=1, val_share=0, progress=False)
    results = import_bags(config)
    assert not any(result.error or result.skipped for result in results)
    return [
        NuScenes(version, str(shared_data / name), verbose=False),
        NuScenes("v1.0-bags", str(config.root), verbose=False),
    ]


def test_recordings_come_back(pair: list[NuScenes]) -> None:
    assert_same_frames(*pair)
    assert_same_samples(*pair)


def truth_of(nusc: NuScenes) -> Results:
    """Ground truth as results, half a metre off, with falling scores."""
    from nuscenes.eval.detection.utils import category_to_detection_name

    results: dict[str, list[dict[str, object]]] = {sample["token"]: [] for sample in nusc.sample}
    for number, row in enumerate(sorted(nusc.sample_annotation, key=lambda row: row["token"])):
        name = category_to_detection_name(row["category_name"])
        if name is not None:
            x, y, z = row["translation"]
            results[row["sample_token"]].append(
                {
                    "sample_token": row["sample_token"], "translation": [x + 0.5, y, z], "size": row["size"],
                    "rotation": row["rotation"], "velocity": [0.0, 0.0], "detection_name": name,
                    "detection_score": 1 - 1e-3 * number, "attribute_name": "",
                }
            )  # fmt: skip
    meta = dict.fromkeys(("use_camera", "use_lidar", "use_radar", "use_map", "use_external"), False)
    return {"meta": meta, "results": results}


def test_recordings_score_the_same(pair: list[NuScenes], tmp_path: Path) -> None:
    first, second = pair
    split = "real_val" if first.version == "v1.0-real" else "pandaset_val"
    results = truth_of(first)
    ours = evaluate_results(first, results, split, tmp_path / "first")
    theirs = evaluate_results(second, results, "bags_all", tmp_path / "second")
    assert ours.nds == pytest.approx(theirs.nds, abs=1e-6)
    assert ours.class_ap == pytest.approx(theirs.class_ap, abs=1e-6)
    assert ours.nds > 0.1

"""A data set becomes bags, and these become the same data set again."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from nuscenes import NuScenes
from same_data import assert_same_frames, assert_same_samples, tiny_world

from bevdistill_ros.core.records import Detections
from training.bag_import.config import BagImportConfig
from training.bag_import.run import import_bags, run_bag_import
from training.data.index.load import DataConfig, load_index
from training.data.schema import stamp_columns, stamp_ns_of
from training.evaluate.metrics import evaluate_detections

WORLD = tiny_world()


@pytest.fixture(scope="module")
def imported(bags: Path) -> Path:
    root = bags.parent / "imported"
    run_bag_import(BagImportConfig(bags=(bags,), root=root, num_workers=1, val_share=0.5, progress=False))
    return root


def tables_of(root: Path, version: str) -> NuScenes:
    return NuScenes(version, str(root), verbose=False)


def test_all_comes_back(world: Path, imported: Path) -> None:
    first, second = tables_of(world, WORLD.version), tables_of(imported, "v1.0-bags")
    assert [scene["name"] for scene in second.scene] == [scene["name"] for scene in first.scene]
    assert_same_frames(first, second)
    assert_same_samples(first, second)
    assert json.loads((imported / "v1.0-bags" / "splits.json").read_text()) == {
        "bags_train": ["synth-0000"],
        "bags_val": ["synth-0001"],
        "bags_all": ["synth-0000", "synth-0001"],
    }
    assert not list(imported.parent.glob(".*"))  # nothing is left of the work


def test_the_same_detections_have_the_same_score(world: Path, imported: Path, tmp_path: Path) -> None:
    """Ground truth moved by half a metre, with scores that fall."""
    scores = []
    for root, version, split in ((world, WORLD.version, "synth_val"), (imported, "v1.0-bags", "bags_val")):
        index = load_index(DataConfig(root=root, version=version, cache_dir=tmp_path))
        found = {}
        for sample in index.samples_of(split):
            boxes = torch.tensor(index.boxes[index.boxes_of(sample)])
            order = boxes[:, 0].argsort()
            boxes = boxes[order]
            boxes[:, 0] += 0.5
            labels = torch.tensor(index.labels[index.boxes_of(sample)])[order]
            found[index.token(sample)] = Detections(
                stamp_ns=int(index.stamps_ns[sample]),
                boxes=boxes,
                scores=torch.linspace(0.9, 0.1, len(boxes)),
                labels=labels,
            )
        nusc = tables_of(root, version)
        metrics = evaluate_detections(nusc, found, index.poses_of(split), split, tmp_path / version)
        scores.append((metrics.nds, metrics.mean_ap, *metrics.tp_errors.values()))
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    assert scores[0][0] > 0.1


@pytest.mark.slow
def test_an_import_trains(imported: Path, make_run: Any, tmp_path: Path) -> None:
    from training.run.fit import fit

    changes: dict[str, Any] = {
        "data.root": str(imported),
        "data.version": "v1.0-bags",
        "data.train_split": "bags_train",
        "data.val_split": "bags_val",
    }
    assert fit(make_run(tmp_path / "run", role="teacher", **changes)).is_file()
    assert fit(make_run(tmp_path / "student", **changes)).is_file()


def test_nanoseconds_survive_the_microseconds_of_the_tables() -> None:
    for stamp_ns in (1_600_000_000_123_456_789, 1_600_000_000_123_456_000):
        assert stamp_ns_of(stamp_columns(stamp_ns)) == stamp_ns
    assert stamp_columns(1_600_000_000_123_456_000) == {"timestamp": 1_600_000_000_123_456}
    changed = {"timestamp": 5, "timestamp_ns": 1_600_000_000_123_456_789}  # by a tool that knows the first alone
    assert stamp_ns_of(changed) == 5000


def test_a_bag_that_cannot_be_read_does_not_stop_the_others(bags: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken" / "drive.mcap"
    broken.parent.mkdir()
    broken.write_bytes(b"\x89MCAP0\r\n")
    config = BagImportConfig(bags=(bags / "synth-0000", broken), root=tmp_path / "set", num_workers=1, progress=False)
    with pytest.raises(ValueError, match=r"1 of 2 bags could not be imported:\n.*drive.mcap: bag .* cannot be read"):
        run_bag_import(config)
    assert len(tables_of(config.root, "v1.0-bags").sample) == WORLD.frames_per_scene
    with pytest.raises(ValueError, match="none of the 1 bags could be imported"):
        import_bags(replace(config, bags=(broken,), root=tmp_path / "none"))
    assert not (tmp_path / "none").exists()
    assert not list(tmp_path.glob(".*"))


def test_an_interrupted_import_goes_on(bags: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from training.bag_import import run

    config = BagImportConfig(bags=(bags,), root=tmp_path / "set", num_workers=1, progress=False)
    genuine, seen = run.import_bag, []

    def stops(config: BagImportConfig, bag: tuple[Path, str]) -> Any:
        seen.append(bag[1])
        if len(seen) == 2:
            (config.growing / "sweeps" / "CAM_FRONT" / "half.jpg").write_bytes(b"half")
            raise KeyboardInterrupt
        return genuine(config, bag)

    monkeypatch.setattr(run, "import_bag", stops)
    with pytest.raises(KeyboardInterrupt):
        import_bags(config)
    assert not config.root.exists()
    results = import_bags(config)
    assert seen == ["synth-0000", "synth-0001", "synth-0001"]
    assert [result.key_frames for result in results] == [WORLD.frames_per_scene] * 2
    assert not list(config.root.rglob("half.jpg"))
    with pytest.raises(ValueError, match="already exists"):
        import_bags(config)


def test_a_scene_that_two_bags_hold_counts_once(bags: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    again.symlink_to(bags / "synth-0000")
    config = BagImportConfig(bags=(bags / "synth-0000", again), root=tmp_path / "set", num_workers=1, progress=False)
    results = import_bags(config)
    assert "its scene 'synth-0000' is in" in results[1].error
    assert len(tables_of(config.root, "v1.0-bags").scene) == 1
    assert not list(config.root.rglob("again__*"))

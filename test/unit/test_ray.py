"""Commands over a Ray cluster of two workers: the same results as in this process."""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from training.bag.write_command import BagWriteConfig, run_bag_write
from training.bag_import.config import BagImportConfig
from training.bag_import.run import run_bag_import
from training.label.run import LabelConfig, run_label
from training.replay.config import ReplayConfig
from training.replay.run import run_replay
from training.score.run import ScoreConfig, run_score

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a cluster of two machines with a CPU each, and a head without one."""
    pytest.importorskip("ray", reason="needs the optional package ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        store = 80 * 2**20
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": store})
        for _ in range(2):
            cluster.add_node(num_cpus=1, object_store_memory=store)
        yield cluster.address
        cluster.shutdown()


@pytest.fixture(scope="module")
def world(tiny_world: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tiny database whose bags can be replayed."""
    database = type(tiny_world)(tmp_path_factory.mktemp("whole") / "world", front_delay=0.0, is_whole=True, start=1.0)
    database.write()
    return database


@pytest.fixture(scope="module")
def bags(world: Any) -> tuple[Path, ...]:
    folder = world.root.parent / "bags"
    run_bag_write(BagWriteConfig(root=world.root, version=world.version, output=folder, progress=False))
    return tuple(sorted(folder.iterdir()))


def tables_of(folder: Path) -> dict[str, Any]:
    return {
        path.name: json.loads(path.read_text())
        for path in folder.glob("*.json")
        if path.name not in ("labels.json", "import.json")
    }


def test_import(bags: tuple[Path, ...], address: str, tmp_path: Path) -> None:
    config = BagImportConfig(bags=bags, root=tmp_path / "here", num_workers=1, progress=False)
    run_bag_import(config)
    run_bag_import(replace(config, root=tmp_path / "there", ray=address))
    assert tables_of(tmp_path / "here/v1.0-bags") == tables_of(tmp_path / "there/v1.0-bags")


def test_label(world: Any, tiny_teacher: Path, address: str) -> None:
    config = LabelConfig(
        checkpoint=str(tiny_teacher),
        root=world.root,
        version=world.version,
        split="tiny_val",
        output_version="v1.0-here",
        threshold=0.01,
        min_points=0,
        track=None,
        replace=True,
        device="cpu",
        progress=False,
    )
    run_label(config)
    run_label(replace(config, output_version="v1.0-there", ray=address))
    here, there = (tables_of(world.root / version) for version in ("v1.0-here", "v1.0-there"))
    assert here == there
    assert sum("score" in row for row in here["sample_annotation.json"]) > 4


def test_replay_and_score(world: Any, bags: tuple[Path, ...], tiny_bundle: Path, address: str, tmp_path: Path) -> None:
    config = ReplayConfig(
        bundle=tiny_bundle,
        output=tmp_path / "here",
        bags=bags,
        mode="offline",
        device="cpu",
        parameters={"engine": "torch", "num_threads": 1},
        progress=False,
    )
    here = run_replay(config)
    for output, changes in (("there", {"ray": address}), ("beside", {"processes": 2})):
        other = run_replay(replace(config, output=tmp_path / output, **changes))
        assert (other.sets_sent, other.sets_processed, other.drops) == (here.sets_sent, here.sets_processed, here.drops)
    known = {"root": world.root, "version": world.version, "split": "tiny_val", "published": "stamp"}
    reports = []
    for output, address_of in (("here", ""), ("there", address)):
        recorded = tuple(sorted((tmp_path / output / "detections").iterdir()))
        run_score(ScoreConfig(**known, bags=recorded, output=tmp_path / f"score-{output}", ray=address_of))
        reports.append(json.loads((tmp_path / f"score-{output}/report.json").read_text()))
    assert reports[0]["whole"] == reports[1]["whole"]

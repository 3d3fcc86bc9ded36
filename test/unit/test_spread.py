"""Tasks over processes and a Ray cluster: outcomes, errors of items, workers that are killed."""

import importlib
import os
import pickle
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

from bevdistill_ros.interface.topics import LAYOUTS
from training.parallel.spread import Outcome, listed_errors, spread


@pytest.fixture(autouse=True, scope="module")
def tasks() -> Iterator[ModuleType]:
    """A module that worker processes can import too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent / "tasks")
        yield importlib.import_module("spread_tasks")


def _by_item(outcomes: list[Outcome]) -> dict:
    return {outcome.item: outcome for outcome in outcomes}


@pytest.mark.parametrize("processes", [1, 2])
def test_outcomes_and_errors_of_all_items(tasks: ModuleType, processes: int) -> None:
    found = _by_item(list(spread(tasks.half, range(5), processes=processes)))
    assert {item: outcome.result for item, outcome in found.items()} == {0: 0, 1: None, 2: 1, 3: None, 4: 2}
    assert found[3].error == "3 is odd and has no half"
    assert listed_errors(list(found.values())).splitlines()[0] == "2 of 5 failed:"
    assert not listed_errors([found[0]])


def test_items_of_a_killed_worker_are_tried_again(tasks: ModuleType, tmp_path: Path) -> None:
    found = _by_item(list(spread(partial(tasks.die_first, tmp_path), range(6), processes=2)))
    assert sorted(found) == list(range(6))
    assert not any(outcome.error for outcome in found.values())
    assert found[3].result[1] != int((tmp_path / "died").read_text())


def test_an_item_that_kills_every_worker_is_an_error_and_the_others_go_on(tasks: ModuleType) -> None:
    found = _by_item(list(spread(tasks.die, range(3), processes=2, retries=1)))
    assert "killed 2 times" in found[1].error
    assert [found[item].result for item in (0, 2)] == [0, 2]


def test_what_cannot_be_sent_is_the_error_of_its_item(tasks: ModuleType) -> None:
    assert all("pickle" in outcome.error for outcome in spread(lambda item: item, [1, 2], processes=2))


def test_leaving_early_ends_the_workers(tasks: ModuleType, tmp_path: Path) -> None:
    outcomes = spread(partial(tasks.wait, tmp_path), [0, 1, 1], processes=2)
    assert next(outcomes).item == 0
    started = time.monotonic()
    outcomes.close()
    assert time.monotonic() - started < 20
    for mark in tmp_path.glob("*.started"):
        with pytest.raises(ProcessLookupError):
            os.kill(int(mark.read_text()), 0)


def test_processes_must_be_positive(tasks: ModuleType) -> None:
    with pytest.raises(ValueError, match="processes must be at least 1"):
        spread(tasks.half, [1], processes=0)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ray_goes_on_where_a_worker_and_a_machine_are_killed(
    tasks: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(str(tasks.__file__)).parent), *sys.path]))
    ray = pytest.importorskip("ray", reason="needs the optional package ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 80 * 2**20})
    workers = [cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20) for _ in range(2)]
    try:
        outcomes = spread(partial(tasks.slow_half, tmp_path), range(8), ray=cluster.address)
        found = [next(outcomes) for _ in range(2)]
        cluster.remove_node(workers[0], allow_graceful=False)  # a machine is lost, with the task that it had
        found += outcomes
        assert not ray.is_initialized()
        known = _by_item(found)
        assert sorted(known) == list(range(8))
        assert len(found) == 8
        assert [known[item].result for item in (0, 2, 4, 6)] == [0, 1, 2, 3]
        assert all("is odd" in known[item].error for item in (1, 3, 5, 7))
        assert (tmp_path / "died").exists()
    finally:
        cluster.shutdown()


@pytest.mark.slow
def test_ray_without_a_cluster_is_one_line(tasks: ModuleType) -> None:
    pytest.importorskip("ray", reason="needs the optional package ray")
    with pytest.raises(ValueError, match=r"no Ray cluster answers at '127\.0\.0\.1:1'"):
        list(spread(tasks.half, [1], ray="127.0.0.1:1"))


def test_settings_with_read_only_mappings_can_be_sent() -> None:
    for topics in LAYOUTS.values():
        assert pickle.loads(pickle.dumps(topics)) == topics

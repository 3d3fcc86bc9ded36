"""The worker thread: the newest item wins; without ROS."""

import threading

from bevdistill_ros.node.worker import LatestWorker


def test_the_newest_item_wins_and_the_others_are_told() -> None:
    started, go, done = threading.Event(), threading.Event(), threading.Event()
    worked: list[int] = []
    replaced: list[int] = []

    def work(item: int) -> None:
        started.set()
        go.wait(10)
        worked.append(item)
        if item == 4:
            done.set()

    worker = LatestWorker(work, replaced.append)
    worker.offer(1)
    assert started.wait(10)
    for item in (2, 3, 4):
        worker.offer(item)
    go.set()
    assert done.wait(10)
    worker.stop()
    assert worked == [1, 4]
    assert replaced == [2, 3]


def test_what_waits_can_be_taken_back() -> None:
    started, go = threading.Event(), threading.Event()
    worked: list[int] = []

    def work(item: int) -> None:
        started.set()
        go.wait(10)
        worked.append(item)

    worker = LatestWorker(work, lambda item: None)
    worker.offer(1)
    assert started.wait(10)
    worker.offer(2)
    assert worker.clear() == [2]
    go.set()
    worker.stop()
    assert worked == [1]


def test_stop_leaves_what_waits_and_ends_the_thread() -> None:
    worker = LatestWorker(lambda item: None, lambda item: None)
    worker.stop()
    worker.offer(1)
    assert worker.clear() == [1]

"""One thread that works on the newest item; items superseded while waiting are passed to `on_replaced`."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class LatestWorker(Generic[Item]):
    """Calls `work` with the newest item, one at a time.

    Args:
        work: What to do with an item; it must not raise.
        on_replaced: Called with an item that a newer one has superseded.
    """

    def __init__(self, work: Callable[[Item], None], on_replaced: Callable[[Item], None]) -> None:
        self._work = work
        self._on_replaced = on_replaced
        self._condition = threading.Condition()
        self._waiting: list[Item] = []
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="detector", daemon=True)
        self._thread.start()

    def offer(self, item: Item) -> None:
        """Hand over an item; returns at once."""
        with self._condition:
            replaced, self._waiting = self._waiting, [item]
            self._condition.notify()
        for old in replaced:
            self._on_replaced(old)

    def clear(self) -> list[Item]:
        """Take back what waits."""
        with self._condition:
            waiting, self._waiting = self._waiting, []
            return waiting

    def stop(self) -> None:
        """Finish the item at hand, leave what waits, and end the thread."""
        with self._condition:
            self._is_stopping = True
            self._condition.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._waiting or self._is_stopping)
                if self._is_stopping:
                    return
                item = self._waiting.pop()
            self._work(item)

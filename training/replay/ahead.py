"""Work that is done ahead in a thread, so that whoever needs its results does not wait for it."""

import threading
from collections.abc import Generator
from contextlib import closing
from queue import Full, Queue
from typing import Generic, TypeVar

Item = TypeVar("Item")

_POLL_S = 0.1


class _End(Generic[Item]):
    """Behind the last item: why there are no more."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def ahead(items: Generator[Item, None, None], depth: int) -> Generator[Item, None, None]:
    """Items in their order, made in a thread that is up to `depth` + 1 items ahead; what it raises is raised here.

    Where the caller stops before the end, the thread stops with the item at hand.
    """
    queue: Queue[Item | _End[Item]] = Queue(maxsize=depth)
    stopped = threading.Event()

    def put(item: Item | _End[Item]) -> bool:
        while not stopped.is_set():
            try:
                queue.put(item, timeout=_POLL_S)
            except Full:
                continue
            return True
        return False

    def work() -> None:
        error: BaseException | None = None
        try:
            with closing(items):
                for item in items:
                    if not put(item):
                        return
        except BaseException as raised:  # for the caller, whatever it is
            error = raised
        put(_End(error))

    thread = threading.Thread(target=work, name="ahead", daemon=True)
    thread.start()
    try:
        while not isinstance(item := queue.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stopped.set()
        thread.join()

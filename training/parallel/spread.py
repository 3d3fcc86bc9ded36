"""One function over many items, such as bags or scenes: in this process, in several, or on a Ray cluster.

The items share nothing: one that fails is reported and the others go on; one whose worker was killed is tried again.
Workers must find the same files under the same paths, and get the function by its name, so it is one of a module (or a
`functools.partial` of one); items and results must be picklable.
"""

import copyreg
import logging
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from training.parallel.child import end_with

T = TypeVar("T")
R = TypeVar("R")

_CONNECT_S = 10.0
_MAX_WORDS = 500  # characters of an error
RETRIES = 2  # of an item whose worker was killed
_RAY_MISSING = (
    "Ray is not installed: pip install 'bevdistill_ros[ray]', or leave ray empty for processes of this machine"
)

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Outcome(Generic[T, R]):
    """What became of an item."""

    item: T
    result: R | None
    error: str = ""  # why there is no result, in one line; empty where there is one


def _read_only(content: dict[Any, Any]) -> MappingProxyType[Any, Any]:
    return MappingProxyType(content)


# Settings hold read-only mappings, which pickle does not know.
copyreg.pickle(MappingProxyType, lambda mapping: (_read_only, (dict(mapping),)))


def spread(
    function: Callable[[T], R], items: Sequence[T], *, processes: int = 1, ray: str = "", retries: int = RETRIES
) -> Iterator[Outcome[T, R]]:
    """Call a function once for each item, and yield what became of it as soon as it is known.

    Args:
        function: Takes an item; what it raises is the item's error.
        items: Each is one task.
        processes: How many tasks this machine does at once; 1 does them in this process. Not read with Ray.
        ray: Address of a Ray cluster (`host:6379` of a member, `ray://host:10001` from outside, `auto` for the one of
            this machine), which takes as many tasks at once as it has CPUs; empty: no Ray.
        retries: How often an item whose worker was killed is tried again.

    Yields:
        The outcomes, in the order in which they come.

    Raises:
        ValueError: There is no such cluster, or `processes` is below 1.
        ModuleNotFoundError: A cluster is named, but Ray is not installed.
    """
    if processes < 1:
        raise ValueError(f"processes must be at least 1, but is {processes}")
    if ray:
        return _on_cluster(function, items, ray, retries)
    if processes == 1:
        return (_attempt(function, item) for item in items)
    return _in_processes(function, items, min(processes, max(len(items), 1)), retries)


def listed_errors(outcomes: Sequence[Outcome[Any, Any]]) -> str:
    """A line for each item that failed, after one that counts them; empty where none did."""
    failed = [outcome for outcome in outcomes if outcome.error]
    if not failed:
        return ""
    lines = [f"  {outcome.item}: {outcome.error}" for outcome in failed]
    return "\n".join([f"{len(failed)} of {len(outcomes)} failed:", *lines])


def _attempt(function: Callable[[T], R], item: T) -> Outcome[T, R]:
    try:
        return Outcome(item=item, result=function(item))
    except Exception as error:
        return Outcome(item=item, result=None, error=_reason(error))


def _reason(error: BaseException) -> str:
    """An error in one line, with its type where the words are not meant for users."""
    words = " ".join(str(error).split())[:_MAX_WORDS]
    if isinstance(error, ValueError | OSError) and words:
        return words
    _LOG.debug("unexpected error of a task", exc_info=error)
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


class _Worker:
    """A process of this machine that does one task after the other; a new one takes the place of one that died."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None
        self._pid = 0
        self._is_ended = False
        self._lock = threading.Lock()  # of all three, as one thread hands out tasks and another one ends the process

    def do(self, function: Callable[[T], R], item: T, retries: int) -> Outcome[T, R]:
        """The outcome of an item, after so many more attempts as it takes workers that are killed."""
        for _ in range(1 + retries):
            try:
                return self._pool_at_work().submit(_attempt, function, item).result()
            except BrokenProcessPool:
                self._forget()
            except Exception as error:  # what can't be pickled
                return Outcome(item=item, result=None, error=_reason(error))
        return Outcome(item=item, result=None, error=f"its worker was killed {1 + retries} times; memory may be short")

    def end(self) -> None:
        """End the process, in the middle of a task or not, for good."""
        with self._lock:
            self._is_ended = True
            if self._pool is not None:
                with suppress(ProcessLookupError):
                    os.kill(self._pid, signal.SIGTERM)
                self._pool.shutdown()

    def _pool_at_work(self) -> ProcessPoolExecutor:
        with self._lock:
            if self._is_ended:
                raise InterruptedError("interrupted")
            if self._pool is None:
                context = multiprocessing.get_context("spawn")  # threads and torch do not survive a fork
                pool = ProcessPoolExecutor(1, mp_context=context, initializer=_follow, initargs=(os.getpid(),))
                self._pid = pool.submit(os.getpid).result()
                self._pool = pool
            return self._pool

    def _forget(self) -> None:
        with self._lock:
            self._pool = None


def _follow(parent_pid: int) -> None:
    """In a worker: end with the process that started it, and leave Ctrl-C to that one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with(parent_pid, signal.SIGTERM)


def _in_processes(
    function: Callable[[T], R], items: Sequence[T], processes: int, retries: int
) -> Iterator[Outcome[T, R]]:
    workers = [_Worker() for _ in range(processes)]
    free = list(workers)  # a thread of the pool takes one, and gives it back

    def one(item: T) -> Outcome[T, R]:
        worker = free.pop()
        try:
            return worker.do(function, item, retries)
        finally:
            free.append(worker)

    with ThreadPoolExecutor(processes) as pool:
        try:
            for future in as_completed([pool.submit(one, item) for item in items]):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in workers:
                worker.end()


def _on_cluster(function: Callable[[T], R], items: Sequence[T], address: str, retries: int) -> Iterator[Outcome[T, R]]:
    ray = _connected(address)
    try:
        task = ray.remote(_attempt).options(num_cpus=1, max_retries=retries)
        pending = {task.remote(function, item): item for item in items}
        while pending:
            for reference in ray.wait(list(pending), num_returns=1)[0]:
                yield _fetched(ray, reference, pending.pop(reference), retries)
    finally:
        ray.shutdown()  # ends the tasks that still run


def _connected(address: str) -> Any:
    """The module ray, connected to a cluster."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(_RAY_MISSING) from error
    try:
        _check_answers(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise ValueError(
            f"no Ray cluster answers at '{address}' ({_reason(error)}); start one by `ray start --head` and "
            "give its host:6379, or auto on its own machine"
        ) from error
    return ray


def _check_answers(address: str) -> None:
    """Raise OSError where nobody listens at host:port, for which Ray itself waits for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()


def _fetched(ray: Any, reference: Any, item: T, retries: int) -> Outcome[T, R]:
    """The outcome of a task that has ended; Ray has tried again what was killed."""
    try:
        outcome: Outcome[T, R] = ray.get(reference)
        return outcome
    except ray.exceptions.RayTaskError as error:  # not of the function, whose errors are outcomes
        return Outcome(item=item, result=None, error=_reason(error.cause or error))
    except ray.exceptions.RayError as error:
        words = f"its worker was killed {1 + retries} times ({type(error).__name__}); memory may be short"
        return Outcome(item=item, result=None, error=words)

"""Child processes of a benchmark, and what they use."""

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import psutil

from training.parallel.child import module_command

_STOP_TIMEOUT_S = 10.0
_LOG_LINES = 12


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a process uses, all its threads together."""

    cpu_s: float  # CPU time since its start, of user and kernel [s]
    memory_mb: float  # resident [MB]
    threads: int


def usage_of(pid: int) -> Usage:
    """What a process uses now.

    Raises:
        ProcessLookupError: It has ended.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            raise psutil.ZombieProcess(pid)
        times = process.cpu_times()
        memory, threads = process.memory_info().rss, process.num_threads()
    except psutil.NoSuchProcess as error:
        raise ProcessLookupError(f"process {pid} has ended") from error
    return Usage(cpu_s=times.user + times.system, memory_mb=memory / 1e6, threads=threads)


class Child:
    """A Python module that runs in a process of its own while the context is open.

    Args:
        module: Its name, and the arguments it gets.
        log_path: What it prints.
        environment: All its environment variables.
    """

    def __init__(self, module: Sequence[str], log_path: Path, environment: Mapping[str, str]) -> None:
        self._module = list(module)
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self.log_path = log_path

    def __enter__(self) -> "Child":
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                module_command(*self._module),
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,  # an interrupt at the terminal reaches us, and we end the child in order
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._running
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._running.pid

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end; False where it still runs.

        Raises:
            ChildProcessError: It failed; with the end of its log.
        """
        try:
            code = self._running.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        if code:
            raise self.failure(f"ended with code {code}")
        return True

    def check(self) -> None:
        """Raise ChildProcessError, with the end of its log, if it has ended."""
        code = self._running.poll()
        if code is not None:
            raise self.failure(f"ended with code {code}")

    def failure(self, what: str) -> ChildProcessError:
        """An error that says what is wrong with it, and the end of its log."""
        tail = "\n".join(self.log_path.read_text(errors="replace").splitlines()[-_LOG_LINES:])
        return ChildProcessError(f"{self._module[0]} {what}; the end of {self.log_path}:\n{tail}")

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the context is not open"
        return self._process


@contextmanager
def ending_in_order() -> Iterator[None]:
    """Let a request to end (SIGTERM) and a closed terminal (SIGHUP) raise KeyboardInterrupt, so that contexts close.

    Opened in the main thread; in any other it changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Commands:
    """Commands that run to their end while the context is open, from any thread, and not longer than this process.

    When the context ends early, or this process is asked to end (which then raises KeyboardInterrupt in the main
    thread), those that run are asked to end too. Opened in the main thread.
    """

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._is_ending = False
        self._lock = threading.Lock()

    def __enter__(self) -> "Commands":
        self._order = ending_in_order()
        self._order.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
        self._order.__exit__(kind, error, trace)

    def run(self, command: Sequence[str], *, stdout: IO[Any], stderr: IO[Any] | None) -> int:
        """Run a command to its end; returns its exit status, which is negative for a signal.

        Args:
            command: The program and its arguments.
            stdout: File for its output.
            stderr: File for its errors; None shows them where ours are shown.

        Raises:
            KeyboardInterrupt: Commands are being ended.
        """
        with self._lock:
            if self._is_ending:
                raise KeyboardInterrupt
            process = subprocess.Popen(command, stdout=stdout, stderr=stderr)
            self._running.add(process)
        try:
            return process.wait()
        finally:
            if process.poll() is None:  # interrupted while waiting
                process.terminate()
                process.wait()
            with self._lock:
                self._running.discard(process)

    def end(self) -> None:
        """Ask all that run to end, and start no more; does not wait for them."""
        with self._lock:
            self._is_ending = True
            for process in self._running:
                process.terminate()


def run_to_end(
    child: Child, beside: Child, *, timeout_s: float, poll_s: float = 1.0, on_poll: Callable[[], None] = lambda: None
) -> None:
    """Wait until a child has come to its end, while another one runs beside it.

    Args:
        child: To wait for.
        beside: Must run as long.
        timeout_s: How long [s].
        poll_s: Time between two polls [s].
        on_poll: Called at each poll.

    Raises:
        ChildProcessError: One of them failed, or it takes too long; where both failed, that of `beside` is raised.
    """
    deadline = time.monotonic() + timeout_s
    try:
        while not child.wait(poll_s):
            beside.check()
            on_poll()
            if time.monotonic() > deadline:
                raise child.failure(f"did not end within {timeout_s:g} s")
    except ChildProcessError:
        beside.check()
        raise

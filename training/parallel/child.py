"""Child processes that do not outlive the process that started them, however that one ends.

As a program it runs a module as `python -m` does, without the working folder on the module path, where a folder of data
may hold modules of any name:

    python -P -m training.parallel.child PARENT_PID MODULE [ARGUMENT ...]
"""

import ctypes
import os
import runpy
import signal
import sys
import threading
import time

GRACE_S = 10.0  # a child that was asked to end may finish its work for this long
_POLL_S = 1.0
_PR_SET_PDEATHSIG = 1


def module_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module in a child process of this one."""
    return [sys.executable, "-P", "-m", "training.parallel.child", str(os.getpid()), module, *arguments]


def end_with(parent_pid: int, request: signal.Signals) -> None:
    """Have the kernel send this process a signal when its parent ends; a parent that has ended already counts too.

    Raises:
        SystemExit: The parent has ended.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(request), 0, 0, 0)
    if os.getppid() != parent_pid:  # it ended before the kernel knew
        raise SystemExit(f"process {parent_pid}, which started this one, has ended")


def main() -> None:
    """Run the module that the command line names."""
    parent_pid, module = int(sys.argv[1]), sys.argv[2]
    end_with(parent_pid, signal.SIGTERM)
    threading.Thread(target=_watch, args=(parent_pid,), daemon=True).start()
    sys.argv = [module, *sys.argv[3:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _watch(parent_pid: int) -> None:
    """Kill this process where it has not ended some time after its parent did."""
    while os.getppid() == parent_pid:
        time.sleep(_POLL_S)
    time.sleep(GRACE_S)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()

"""Tasks that test_spread.py gives to other processes, which get them by this module's name."""

import os
import signal
import time
from pathlib import Path


def half(number: int) -> int:
    if number % 2:
        raise ValueError(f"{number} is odd\nand has no half")
    return number // 2


def die_first(folder: Path, number: int) -> tuple[int, int]:
    """Number and process; 3 kills its worker at its first attempt."""
    mark = folder / "died"
    if number == 3 and not mark.exists():
        mark.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)
    return number, os.getpid()


def die(number: int) -> int:
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def wait(folder: Path, number: int) -> int:
    (folder / f"{number}.started").write_text(str(os.getpid()))
    if number == 1:
        time.sleep(60)
    return number


def slow_half(folder: Path, number: int) -> int:
    die_first(folder, number)
    time.sleep(0.5)
    return half(number)

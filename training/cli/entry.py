"""The command `bevdistill` of an installation: where the packages for training are missing, one line says so."""

import sys
from importlib import import_module

_OURS = ("bevdistill_ros", "training")


def main() -> int:
    """Run `training.cli.commands`; returns its exit status, or 2 where a package is missing."""
    try:
        status: int = import_module("training.cli.commands").main()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if not package or package in _OURS:
            raise
        sys.stderr.write(
            f"bevdistill: the package {package} is not installed: pip install 'bevdistill_ros[training]'; what goes on "
            "the vehicle needs neither\n"
        )
        return 2
    return status

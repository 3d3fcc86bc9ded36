"""What may be replaced: a folder that holds a synthetic data set and nothing else."""

import re
from pathlib import Path

from training.data.schema import MAP_FILE

MARK = "synth.json"  # in the folder of the tables: the settings of the data set, which no other data set has
_MAX_NAMED = 3
_OURS = re.compile(
    r"(?:samples|sweeps)/([^/]+)/synth-\d{4,}__\1__\d+\.(?:jpg|pcd\.bin)"
    rf"|{re.escape(MAP_FILE)}"
    r"|[^/]+/[a-z_]+\.json"
    r"|\.bevdistill_cache/.+"  # the index that a training makes of the tables
)


def check_replaceable(root: Path, *, overwrite: bool) -> None:
    """Whether a data set may be written to a folder, which a data set that is there already leaves.

    Raises:
        FileExistsError: It exists, and `overwrite` is off.
        ValueError: It holds other files than those of a synthetic data set, or another data set.
    """
    if not root.exists() and not root.is_symlink():
        return
    if not overwrite:
        raise FileExistsError(f"{root} already exists; choose another root, or replace it with overwrite")
    if root.is_symlink() or not root.is_dir():
        raise ValueError(f"{root} is not a folder; it is not replaced, choose another root")
    foreign = sorted(
        name
        for path in root.rglob("*")
        if (path.is_symlink() or not path.is_dir()) and not _OURS.fullmatch(name := path.relative_to(root).as_posix())
    )
    if not foreign and not any(root.glob(f"*/{MARK}")) and any(root.iterdir()):
        raise ValueError(f"{root} has no {MARK} beside its tables, so it may be another data set; choose another root")
    if foreign:
        listed = ", ".join(foreign[:_MAX_NAMED]) + (f" and {len(foreign) - _MAX_NAMED} more" if foreign[3:] else "")
        raise ValueError(
            f"{root} holds files that no synthetic data set has ({listed}); move them or choose another root"
        )

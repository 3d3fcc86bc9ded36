"""What passes between the files of an import."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True, kw_only=True)
class FileContent:
    """An image or sweep as a file holds it."""

    content: bytes
    suffix: str
    size: tuple[int, int]  # height, width [px]; 0, 0 of points


@dataclass(frozen=True, kw_only=True)
class SensorFile:
    """An image or sweep that was written."""

    channel: str
    stamp_ns: int
    path: Path  # where it lies now
    suffix: str
    size: tuple[int, int]  # height, width [px]; 0, 0 of points


@dataclass(frozen=True, kw_only=True)
class BagResult:
    """How the import of one bag went."""

    bag: str
    name: str  # its own among the bags
    scenes: tuple[str, ...] = ()
    key_frames: int = 0
    images: int = 0
    sweeps: int = 0
    boxes: int = 0
    megabytes: float = 0.0  # [MB] of images and sweeps
    seconds: float = 0.0  # [s] that a process worked on it
    skipped: Mapping[str, int] = field(default_factory=dict)  # what is in the bag and not in the data set, by reason
    notes: tuple[str, ...] = ()  # what was decided
    error: str = ""  # why it could not be imported
    is_unwritten: bool = False  # because the data set cannot be written

    def to_plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_plain(cls, content: Mapping[str, Any]) -> Self:
        """Inverse of `to_plain`."""
        lists = {name: tuple(content[name]) for name in ("scenes", "notes")}
        return cls(**{**content, **lists})

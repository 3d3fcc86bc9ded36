"""The plan of a benchmark's simulated vehicle, and the log that it returns; both are exchanged as JSON files."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from bevdistill_ros.core.files import write_whole

Transport = Literal["compressed", "raw"]


@dataclass(frozen=True, kw_only=True)
class DrivePlan:
    """What the vehicle sends to a detector, and for how long."""

    receiver_pid: int  # process whose CPU time is taken
    pictures: str  # folder with `<camera>.jpg`
    cameras: tuple[str, ...]
    transport: Transport
    rate_hz: float  # of each camera
    warm_up_s: float  # driven first, not counted
    seconds: float  # counted
    start_timeout_s: float  # for the detector to subscribe

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        write_whole(path, json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> "DrivePlan":
        """Inverse of `write`."""
        content = json.loads(path.read_text())
        return cls(**content | {"cameras": tuple(content["cameras"])})


@dataclass(frozen=True, kw_only=True)
class DriveLog:
    """What came back in the counted time."""

    sets_sent: int
    round_trips_ms: tuple[float, ...]  # last image of a set sent to its detections received, of each answered set [ms]
    cpu_s: float  # CPU time that the detector's process took [s]
    stages_ms: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # as the node reports them, by stage
    drops: Mapping[str, int] = field(default_factory=dict)  # sets that the node says it dropped, by its reason

    @property
    def sets_lost(self) -> int:
        """Sets that were not answered."""
        return self.sets_sent - len(self.round_trips_ms)

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        write_whole(path, json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> "DriveLog":
        """Inverse of `write`."""
        content = json.loads(path.read_text())
        stages = {name: tuple(values) for name, values in content["stages_ms"].items()}
        return cls(**content | {"round_trips_ms": tuple(content["round_trips_ms"]), "stages_ms": stages})

"""One run of the method table, on disk as JSON."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Self

from training.evaluate.metrics import Metrics


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One run: a method and a seed."""

    method: str  # the row of the table
    seed: int
    split: str
    nds: float  # 0...1
    mean_ap: float  # 0...1
    tp_errors: dict[str, float]
    class_ap: dict[str, float]
    train_seconds: float
    peak_memory_bytes: int
    parameters: int  # numbers in the exported student
    graph: str  # SHA-256 of the names and shapes of its tensors
    without_scenes: dict[str, tuple[float, float]] = field(default_factory=dict)  # NDS and mAP without each scene
    settings: str = ""  # see `training.run.resume.fingerprint`
    machine: str = ""  # that trained it

    @classmethod
    def of(
        cls,
        method: str,
        seed: int,
        metrics: Metrics,
        *,
        cost: dict[str, float],
        graph: dict[str, list[int]],
        without_scenes: Mapping[str, tuple[float, float]],
        settings: str,
        machine: str,
    ) -> Self:
        """Put together what is known of a run."""
        return cls(
            method=method,
            seed=seed,
            split=metrics.split,
            nds=metrics.nds,
            mean_ap=metrics.mean_ap,
            tp_errors=metrics.tp_errors,
            class_ap=metrics.class_ap,
            train_seconds=cost["train_seconds"],
            peak_memory_bytes=int(cost["peak_memory_bytes"]),
            parameters=sum(math.prod(shape) for shape in graph.values()),
            graph=hashlib.sha256(json.dumps(graph, sort_keys=True).encode()).hexdigest(),
            without_scenes={name: (round(nds, 5), round(ap, 5)) for name, (nds, ap) in without_scenes.items()},
            settings=settings,
            machine=machine,
        )

    def to_json(self) -> str:
        """JSON text; inverse of `from_json`."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        return cls(**json.loads(text))

"""Rate, age and losses of a stream of messages, from its stamps."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

MIN_MESSAGES = 5  # fewer show neither a period nor losses
FAST_GAP = 10.0  # [percentile] gaps up to 1.5 times this one are taken for gaps without a loss
MAX_JITTER = 0.2  # of the period; a stream that strays further is not periodic
SHARED_STAMPS = 0.5  # from this part of common stamps on, camera_info is taken to have the image's own stamps


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Messages of one topic in the order of their arrival."""

    stamps_ns: tuple[int, ...]  # of their headers
    arrivals_ns: tuple[int, ...]  # of the same clock
    bytes_mean: float = 0.0  # size of a message

    @classmethod
    def empty(cls) -> "Stream":
        """A stream of nothing."""
        return cls(stamps_ns=(), arrivals_ns=())

    @property
    def period_s(self) -> float | None:
        """Time between two messages [s] when none is lost; None where the stream is not periodic, or too short."""
        return period_of(self.stamps_ns)

    @property
    def age_ms(self) -> float:
        """Median age on arrival [ms]; NaN without messages."""
        ages = np.array(self.arrivals_ns, dtype=np.int64) - np.array(self.stamps_ns, dtype=np.int64)
        return float(np.median(ages)) / 1e6 if len(ages) else math.nan

    @property
    def rate_hz(self) -> float:
        """Messages a second by their stamps; NaN with fewer than two."""
        span = max(self.stamps_ns, default=0) - min(self.stamps_ns, default=0)
        return (len(set(self.stamps_ns)) - 1) / span * 1e9 if span else math.nan

    @property
    def repeated(self) -> int:
        """Messages with a stamp that another one had before."""
        return len(self.stamps_ns) - len(set(self.stamps_ns))

    @property
    def goes_back(self) -> bool:
        """Whether a stamp is older than the one before."""
        return any(later < earlier for earlier, later in zip(self.stamps_ns, self.stamps_ns[1:], strict=False))


class Evidence(StrEnum):
    """Evidence of a loss, strongest first."""

    CAMERA_INFO = "camera_info came of images that did not"
    GAPS = "by the gaps between stamps"
    GAPS_IN_BOTH = "by the gaps between stamps, which camera_info has too: the driver itself may leave them out"


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Messages that should have come."""

    missing: int
    expected: int
    evidence: Evidence

    @property
    def ratio(self) -> float:
        """Part of the expected messages that is missing."""
        return self.missing / self.expected if self.expected else 0.0


def period_of(stamps_ns: Sequence[int]) -> float | None:
    """Period [s] of a stream of which any number of messages is lost; None where it is not periodic, or too short."""
    gaps = _gaps(stamps_ns)
    if len(gaps) + 1 < MIN_MESSAGES:
        return None
    single = gaps[gaps <= 1.5 * np.percentile(gaps, FAST_GAP)]
    period = float(np.median(single))
    whole = gaps / period
    jitter = np.abs(whole - whole.round())
    return period / 1e9 if np.median(jitter) <= MAX_JITTER else None


def loss_of(images: Stream, infos: Stream) -> Loss | None:
    """What was lost of a camera's images; None where there is no evidence.

    A camera_info is small and often comes through where its image does not, so one without an image proves a loss. Of
    a periodic camera the gaps between the stamps count as well.

    Args:
        images: The images.
        infos: camera_info of the same camera, perhaps none.
    """
    received = set(images.stamps_ns)
    proven = _stamps_without_image(received, set(infos.stamps_ns))
    period = images.period_s
    due = 0 if period is None else int((_gaps(images.stamps_ns) / (period * 1e9)).round().sum()) + 1 - len(received)
    if proven is None and period is None:
        return None
    missing = max(proven or 0, due)
    evidence = Evidence.CAMERA_INFO if proven else Evidence.GAPS if proven is None else Evidence.GAPS_IN_BOTH
    return Loss(missing=missing, expected=missing + len(received), evidence=evidence)


def spreads_ms(streams: Mapping[str, Stream], reference: str) -> np.ndarray:
    """Spread of each set around the images of a reference camera [ms]: the others give the image nearest in time.

    Images at either end are left out, where some camera has none around them.
    """
    stamps = {name: np.unique(np.array(stream.stamps_ns, dtype=np.int64)) for name, stream in streams.items()}
    if any(len(entry) == 0 for entry in stamps.values()):
        return np.empty(0)
    first, last = max(entry[0] for entry in stamps.values()), min(entry[-1] for entry in stamps.values())
    spreads = []
    for anchor in stamps[reference]:
        if first <= anchor <= last:
            nearest = [entry[np.abs(entry - anchor).argmin()] for entry in stamps.values()]
            spreads.append((max(nearest) - min(nearest)) / 1e6)
    return np.array(spreads)


def lags_ms(images: Stream, poses: Stream, wait_ms: float) -> np.ndarray:
    """How far each image lies beyond the newest pose that has come by when it is used [ms]; 0 where none does.

    Args:
        images: Images of one camera.
        poses: Odometry.
        wait_ms: How long an image waits for poses [ms].
    """
    order = np.argsort(np.array(poses.arrivals_ns, dtype=np.int64), kind="stable")
    arrivals = np.array(poses.arrivals_ns, dtype=np.int64)[order]
    newest = np.maximum.accumulate(np.array(poses.stamps_ns, dtype=np.int64)[order])
    stamps = np.array(images.stamps_ns, dtype=np.int64)
    count = np.searchsorted(arrivals, np.array(images.arrivals_ns, dtype=np.int64) + round(wait_ms * 1e6), side="right")
    known = count > 0
    return np.maximum(stamps[known] - newest[count[known] - 1], 0) / 1e6


def _gaps(stamps_ns: Sequence[int]) -> np.ndarray:
    """Times between successive different stamps [ns]."""
    return np.diff(np.unique(np.array(stamps_ns, dtype=np.int64))).astype(np.float64)


def _stamps_without_image(images: set[int], infos: set[int]) -> int | None:
    """How many camera_info came while images came, but without theirs; None where stamps of the two do not belong."""
    if not images or len(images & infos) < SHARED_STAMPS * min(len(images), len(infos)) or not infos:
        return None
    return sum(min(images) <= stamp <= max(images) for stamp in infos - images)

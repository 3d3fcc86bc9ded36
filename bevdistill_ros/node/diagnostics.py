"""How the node is doing: counts and times of recent sets, held against limits."""

import math
import threading
from collections import Counter, deque
from collections.abc import Mapping, Sequence

import numpy as np

from bevdistill_ros.interface.drops import BUSY
from bevdistill_ros.interface.parameters import DiagnosticsParameters
from bevdistill_ros.node.records import Item, Level, SetReport
from bevdistill_ros.node.rig.calibration_store import NOT_YET

STAGES: tuple[str, ...] = ("transport_age", "wait", "decode", "preprocess", "inference", "postprocess", "publish")
FOREIGN_POSE_MS = 1e3  # odometry that lags further behind the images is stamped by another clock, or has ended
FOREIGN_CLOCK_S = 3600.0  # an image that seems older or from the future was stamped by another clock


def age_ms(stamp_ns: int, now_ns: int) -> float:
    """Age of an image [ms]; nan where its stamp cannot be of this clock."""
    age = (now_ns - stamp_ns) / 1e6
    return age if -1e3 < age < FOREIGN_CLOCK_S * 1e3 else math.nan


class Monitor:
    """Remembers what happened of late and judges it; safe to use from several threads.

    Args:
        cameras: Camera names.
        limits: Limits of good and bad.
        started_ns: When the node began to run [ns].
    """

    def __init__(self, cameras: Sequence[str], limits: DiagnosticsParameters, *, started_ns: int) -> None:
        self._cameras = tuple(cameras)
        self._limits = limits
        self._lock = threading.Lock()
        self._window = round(limits.window_s * 1e9)
        self._reports: deque[tuple[int, SetReport]] = deque()
        self._recent_drops: deque[tuple[int, str]] = deque()
        self._images: dict[str, deque[int]] = {name: deque(maxlen=256) for name in self._cameras}
        self._drops: Counter[str] = Counter()
        self._faults: dict[str, tuple[int, str]] = {}
        self._fault_counts: Counter[str] = Counter()
        self._started_ns = started_ns
        self.sets_processed = 0
        self.last_drop_reason = ""

    @property
    def sets_dropped(self) -> int:
        """Sets dropped so far."""
        return self._drops.total()

    def image(self, camera: str, now_ns: int) -> None:
        """An image arrived."""
        with self._lock:
            self._images[camera].append(now_ns)

    def drop(self, reason: str, now_ns: int) -> None:
        """A set was dropped."""
        with self._lock:
            self._drops[reason] += 1
            self._recent_drops.append((now_ns, reason))
            self.last_drop_reason = reason

    def processed(self, report: SetReport, now_ns: int) -> None:
        """A set was published."""
        with self._lock:
            self.sets_processed += 1
            self._reports.append((now_ns, report))

    def fault(self, subject: str, message: str, now_ns: int) -> None:
        """Something is wrong with a subject, such as a camera's calibration."""
        with self._lock:
            self._faults[subject] = (now_ns, message)
            self._fault_counts[subject] += 1

    def is_new(self, now_ns: int) -> bool:
        """Whether the node began so lately that its inputs may still be on their way."""
        return 0 <= now_ns - self._started_ns <= self._limits.camera_timeout_s * 1e9

    def items(self, now_ns: int, sources: Mapping[str, str] | None = None) -> list[Item]:
        """Judge the last seconds.

        Args:
            now_ns: The time [ns].
            sources: Where each camera's images should come from, in words.
        """
        with self._lock:
            self._forget_before(now_ns)
            reports = [report for _, report in self._reports]
            return [
                self._rate(now_ns),
                self._latency(reports),
                self._spread(reports),
                self._drop_ratio(),
                self._missing_cameras(reports, now_ns, sources or {}),
                self._input_faults(),
                self._ego_motion(reports),
            ]

    def _forget_before(self, now_ns: int) -> None:
        for entries in (self._reports, self._recent_drops):
            # A clock set back leaves entries of the future behind; they go too.
            while entries and not now_ns - self._window <= entries[0][0] <= now_ns:
                entries.popleft()
        self._faults = {key: fault for key, fault in self._faults.items() if 0 <= now_ns - fault[0] <= self._window}
        for times in self._images.values():
            while times and times[0] > now_ns:
                times.popleft()

    def _rate(self, now_ns: int) -> Item:
        self._started_ns = min(self._started_ns, now_ns)  # of a clock that was set back
        seconds = min(now_ns - self._started_ns, self._window) / 1e9
        rate = len(self._reports) / seconds if seconds > 0 else 0.0
        level = _below(rate, self._limits.warn_rate_hz, self._limits.error_rate_hz)
        # The first set takes a moment, which is nobody's fault.
        if seconds < self._limits.window_s and level is Level.ERROR:
            level = Level.WARN
        values = {"rate [Hz]": f"{rate:.2f}", "sets processed": str(self.sets_processed)}
        return Item(name="rate", level=level, message=f"{rate:.1f} Hz", values=values)

    def _latency(self, reports: list[SetReport]) -> Item:
        known = [report.latency_ms for report in reports if not math.isnan(report.latency_ms)]
        values = {stage: _percentiles([report.stage_ms[stage] for report in reports]) for stage in STAGES}
        if reports and not known:
            message = "images are not stamped by this clock; set use_sim_time and publish /clock when replaying"
            return Item(name="latency", level=Level.OK, message=message, values=values)
        if not known:
            return Item(name="latency", level=Level.STALE, message="no set yet", values=values)
        values["latency"] = _percentiles(known)
        median = float(np.median(known))
        level = _above(median, self._limits.warn_latency_ms, self._limits.error_latency_ms)
        return Item(name="latency", level=level, message=f"{median:.0f} ms", values=values)

    def _spread(self, reports: list[SetReport]) -> Item:
        if not reports:
            return Item(name="spread", level=Level.STALE, message="no set yet")
        worst = max(report.spread_ms for report in reports)
        level = _above(worst, self._limits.warn_spread_ms, math.inf)
        return Item(name="spread", level=level, message=f"up to {worst:.0f} ms", values={"spread [ms]": f"{worst:.1f}"})

    def _drop_ratio(self) -> Item:
        lost = sum(reason != BUSY for _, reason in self._recent_drops)
        busy, processed = len(self._recent_drops) - lost, len(self._reports)
        ratio = lost / max(lost + processed, 1)
        level = _above(ratio, self._limits.warn_drop_ratio, self._limits.error_drop_ratio)
        values = {reason: str(count) for reason, count in self._drops.most_common(10)}
        message = f"{lost} of {lost + processed} sets dropped"
        if busy:
            message += f" and {busy} passed over while busy"
        if lost:
            message += f", last: {next(reason for _, reason in reversed(self._recent_drops) if reason != BUSY)}"
        return Item(
            name="drops", level=level, message=message, values={"sets dropped": str(self._drops.total()), **values}
        )

    def _missing_cameras(self, reports: list[SetReport], now_ns: int, sources: Mapping[str, str]) -> Item:
        timeout = self._limits.camera_timeout_s * 1e9
        values, silent = {}, []
        for name, times in self._images.items():
            recent = [time for time in times if now_ns - time <= self._window]
            values[name] = f"{len(recent) / self._limits.window_s:.1f} images/s"
            values[name] += f" from {sources[name]}" if name in sources else ""
            if not times or now_ns - times[-1] > timeout:
                silent.append(name)
        if silent:
            named = ", ".join(f"{name} ({sources[name]})" if name in sources else name for name in silent)
            message = f"no images from {named}; check that they are published, and how topics are remapped"
            level = Level.WARN if self.is_new(now_ns) else Level.ERROR
            return Item(name="cameras", level=level, message=message, values=values)
        blanks = Counter(name for r in reports for name, there in zip(r.cameras, r.present, strict=True) if not there)
        if blanks:
            message = f"sets without {', '.join(blanks)}"
            return Item(name="cameras", level=Level.WARN, message=message, values=values)
        return Item(name="cameras", level=Level.OK, message=f"all {len(self._cameras)} send", values=values)

    def _input_faults(self) -> Item:
        values = {f"faults of {name}": str(count) for name, count in self._fault_counts.items()}
        if self._faults:
            message = "; ".join(f"{subject}: {message}" for subject, (_, message) in self._faults.items())
            return Item(name="inputs", level=Level.WARN, message=message, values=values)
        return Item(name="inputs", level=Level.OK, message="usable", values=values)

    def _ego_motion(self, reports: list[SetReport]) -> Item:
        motions = [report.motion for report in reports]
        unknown = sum(not motion.is_known for motion in motions)
        ages = [motion.memory_s for motion in motions if motion.memory_s is not None]
        lag = max((motion.lag_ms for motion in motions), default=0.0)
        values = {
            "sets without a pose": str(unknown),
            "images ahead of the newest pose [ms]": f"{lag:.0f}",
            "sets with memory": f"{len(ages)} of {len(motions)}",
        }
        memory = ""
        if ages:
            reach = float(np.median(ages))
            values["memory reaches back [s]"] = f"{reach:.2f}"
            memory = f"; memory of {reach:.2f} s in {len(ages)} of {len(motions)} sets"
        if unknown:
            message = f"{unknown} of {len(motions)} sets without a pose: taken as standing still, without memory"
            if lag > FOREIGN_POSE_MS:
                message += f"; the newest pose is {lag / 1e3:.1f} s older than the images: compare their clocks"
            message += memory
            return Item(name="ego motion", level=Level.WARN, message=message, values=values)
        message = f"extrapolated by up to {lag:.0f} ms" if lag else "known"
        return Item(name="ego motion", level=Level.OK, message=message + memory, values=values)


def model_item(description: str, refused: Sequence[str]) -> Item:
    """What runs, and which engines were refused: the node runs then, but slower than it was meant to."""
    return Item(
        name="model",
        level=Level.WARN if refused else Level.OK,
        message="; ".join([description, *refused]),
    )


def calibration_item(
    usable: Mapping[str, str], unusable: Mapping[str, str], differences: Sequence[str], *, is_new: bool
) -> Item:
    """What is known of the cameras.

    Args:
        usable: Calibrations in words, by camera.
        unusable: Why a camera has none.
        differences: How the rig differs from that of training.
        is_new: Whether calibrations may still be on their way.
    """
    values = {**usable, **unusable}
    if unusable:
        message = "; ".join(f"{camera}: {reason}" for camera, reason in unusable.items())
        level = Level.WARN if is_new and set(unusable.values()) == {NOT_YET} else Level.ERROR
        return Item(name="calibration", level=level, message=message, values=values)
    if differences:
        return Item(name="calibration", level=Level.WARN, message="; ".join(differences), values=values)
    return Item(name="calibration", level=Level.OK, message=f"all {len(usable)} known", values=values)


def clock_item(*, simulated: bool, now_ns: int) -> Item:
    """Whether the clock that everything is measured with runs."""
    if simulated and now_ns == 0:
        message = "use_sim_time is set, but nothing publishes /clock; publish it, or unset use_sim_time"
        return Item(name="clock", level=Level.ERROR, message=message)
    return Item(name="clock", level=Level.OK, message="/clock" if simulated else "system time")


def _above(value: float, warn: float, error: float) -> Level:
    return Level.ERROR if value > error else Level.WARN if value > warn else Level.OK


def _below(value: float, warn: float, error: float) -> Level:
    return Level.ERROR if value < error else Level.WARN if value < warn else Level.OK


def _percentiles(values: Sequence[float]) -> str:
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "unknown"
    p50, p95 = np.percentile(known, [50, 95])
    return f"p50 {p50:.1f}, p95 {p95:.1f}, max {max(known):.1f} ms"

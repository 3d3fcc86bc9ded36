"""Findings about the images: are they there, do they come through, and do they belong together."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bevdistill_ros.doctor.finding import Finding, Problem, Verdict, fail, judge, ok, share_of, warn
from bevdistill_ros.doctor.records import ImageRecord, Recording, Topic
from bevdistill_ros.doctor.streams import Evidence, Stream, loss_of, spreads_ms
from bevdistill_ros.interface.fast_dds import our_profile, variable
from bevdistill_ros.interface.topics import image_type_of
from bevdistill_ros.node.diagnostics import FOREIGN_CLOCK_S
from bevdistill_ros.node.sync.clocks import ClockWatch

FAIL_LOSS = 0.05  # of the images
OLD_MS = 500.0
EARLY_MS = -50.0  # clocks of two machines agree better than this
UNEQUAL_RATES = 0.1  # of the fastest camera's rate

_CLOCK = "until then no set has an image of it"
_START = (
    "start the camera driver, or give --image_topic; `ros2 topic list -t` shows what there is; "
    "ROS_DOMAIN_ID must be the same everywhere"
)


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """What the node wants of the images."""

    transport: str  # raw or compressed
    max_spread_ms: float
    runs: bool  # whether the node runs
    names: str = ""  # where the names of the topics come from, in words


def check_images(recording: Recording, expectation: Expectation) -> list[Finding]:
    """Findings about the images of each camera, and about all of them together."""
    if not any(record.topic.types for record in recording.images.values()):
        example = next(iter(recording.images.values())).topic.name
        text = f"none of the image topics is published, such as {example}"
        return [fail("images", text, _START) if expectation.runs else warn("images", text, _START)]
    findings = [ok("names", expectation.names), _check_clock(recording)]
    for camera, record in recording.images.items():
        trouble = _connection_trouble(camera, record.topic, expectation)
        findings.append(trouble or check_stream(camera, record, recording.calibrations[camera].stream))
    streams = {camera: record.stream for camera, record in recording.images.items() if record.stream.stamps_ns}
    return [*findings, *check_together(streams, expectation.max_spread_ms)]


def _connection_trouble(camera: str, topic: Topic, expectation: Expectation) -> Finding | None:
    """Why nothing can come from a camera; None where all is well."""
    if not topic.types:
        return fail(camera, f"nobody publishes {topic.name}", _START)
    wanted = image_type_of(expectation.transport)
    if wanted not in topic.types:
        other = "raw" if expectation.transport == "compressed" else "compressed"
        text = f"{topic.name} is of type {', '.join(topic.types)}, transport is {expectation.transport}"
        return fail(camera, text, f"set transport to {other}, or publish {wanted}")
    if topic.unheard:
        remedy = f"make the two fit: parameter qos_overrides.{topic.name}.subscription.reliability of the node"
        return fail(camera, f"the node hears nothing of {topic.name} by {topic.unheard_by}: {topic.unheard}", remedy)
    return None


def check_stream(camera: str, images: ImageRecord, infos: Stream) -> Finding:
    """What the images of a camera are like that came."""
    stream = images.stream
    if not stream.stamps_ns:
        text = f"{images.topic.name} is published, but no image came"
        remedy = f"its driver may send nothing: ros2 topic hz {images.topic.name}"
        if infos.stamps_ns:
            remedy = f"its camera_info comes, so the images are lost on the way: {_profile_remedy()}"
        return fail(camera, text, remedy)
    problems = [*_stamp_problems(stream), *_loss_problems(stream, infos)]
    if isinstance(images.picture, str):
        remedy = "publish JPEG or PNG, or rgb8, bgr8, rgba8, bgra8 or mono8"
        problems.insert(0, Problem(verdict=Verdict.FAIL, message=images.picture, remedy=remedy))
    if images.doubt:
        problems.append(Problem(verdict=Verdict.WARN, message=images.doubt))
    return judge(camera, _describe(images), problems)


def _describe(images: ImageRecord) -> str:
    stream, picture = images.stream, images.picture
    size = f"{picture.shape[1]}x{picture.shape[0]} " if isinstance(picture, np.ndarray) else ""
    rate = f"{1 / stream.period_s:.1f} Hz" if stream.period_s else f"{len(stream.stamps_ns)} images, not periodic"
    age = f"{stream.age_ms:.0f} ms old" if abs(stream.age_ms) < FOREIGN_CLOCK_S * 1e3 else "of another clock"
    return f"{images.topic.name}, {rate}, {size}{images.kind} of {stream.bytes_mean / 1e3:.0f} kB, {age}"


def _stamp_problems(stream: Stream) -> list[Problem]:
    problems = []

    def add(verdict: Verdict, message: str, remedy: str) -> None:
        problems.append(Problem(verdict=verdict, message=message, remedy=remedy))

    if min(stream.stamps_ns) <= 0:
        add(Verdict.FAIL, "its stamps are 0", "let the driver fill header.stamp with the time of exposure")
    elif stream.age_ms > OLD_MS:
        remedy = "synchronise the clocks (chrony, ptp4l); of a recording, play with --clock and set use_sim_time"
        add(Verdict.WARN, "its images come late, or are stamped by another clock", remedy)
    elif stream.age_ms < EARLY_MS:
        add(Verdict.WARN, "its stamps lie in the future", "synchronise the clocks of the machines (chrony, ptp4l)")
    if stream.repeated:
        remedy = "two publishers on one topic, or a driver that repeats images? ros2 topic info -v"
        add(Verdict.WARN, f"{stream.repeated} stamps came twice", remedy)
    if stream.goes_back:
        add(Verdict.WARN, "its stamps go back", "a recording that loops? the node forgets its memory each time")
    return problems


def _loss_problems(images: Stream, infos: Stream) -> list[Problem]:
    loss = loss_of(images, infos)
    if loss is None or not loss.missing:
        return []
    by_driver = loss.evidence is Evidence.GAPS_IN_BOTH
    verdict = Verdict.FAIL if loss.ratio >= FAIL_LOSS and not by_driver else Verdict.WARN
    remedy = "see its driver (exposure, bandwidth, CPU); if all is well there: " if by_driver else ""
    text = f"lost {share_of(loss.missing, loss.expected)}, {loss.evidence}"
    return [Problem(verdict=verdict, message=text, remedy=remedy + _profile_remedy())]


def check_together(streams: Mapping[str, Stream], max_spread_ms: float) -> list[Finding]:
    """Whether the cameras' images make sets: their rates, and the spread of their stamps."""
    if len(streams) < 2:
        return []
    periods = {camera: stream.period_s for camera, stream in streams.items()}
    rates = {camera: 1 / period for camera, period in periods.items() if period}
    fastest = max(rates.values(), default=0.0)
    slow = [f"{camera} {rate:.1f} Hz" for camera, rate in rates.items() if rate < (1 - UNEQUAL_RATES) * fastest]
    findings = []
    if slow:
        text = f"{', '.join(slow)}, the fastest {fastest:.1f} Hz: sets come at the rate of the reference camera"
        remedy = "if it is not meant so, every second image may be lost: see the section dds"
        findings.append(warn("rates", text, remedy))
    findings += _check_clocks(streams)
    spreads = spreads_ms(streams, next(iter(streams)))
    if not len(spreads):
        return [*findings, warn("spread", "the cameras have no images of the same time", "are their clocks the same?")]
    return [*findings, _check_spread(spreads, max_spread_ms)]


def _check_clocks(streams: Mapping[str, Stream]) -> list[Finding]:
    """Cameras that are stamped by another clock than the others."""
    watch, said = ClockWatch(), {}
    arrivals = [
        (arrival, camera, stamp)
        for camera, stream in streams.items()
        for stamp, arrival in zip(stream.stamps_ns, stream.arrivals_ns, strict=True)
    ]
    for arrival, camera, stamp in sorted(arrivals):
        said[camera] = watch.check(camera, stamp, arrival / 1e9)
    return [fail(f"{camera} clock", fault, _CLOCK) for camera, fault in said.items() if fault]


def _check_spread(spreads: np.ndarray, max_spread_ms: float) -> Finding:
    typical, worst = float(np.median(spreads)), float(spreads.max())
    text = (
        f"stamps of a set differ by {typical:.0f} ms, at most {worst:.0f} ms; sync.max_spread_ms is {max_spread_ms:g}"
    )
    beyond = int((spreads > max_spread_ms).sum())
    if not beyond:
        return ok("spread", text)
    remedy = "trigger the cameras together, see to lost images, or raise sync.max_spread_ms"
    text += f"; {share_of(beyond, len(spreads))} sets are beyond it"
    return fail("spread", text, remedy) if typical > max_spread_ms else warn("spread", text, remedy)


def _check_clock(recording: Recording) -> Finding:
    wants = recording.sim_time if recording.node_sim_time is None else recording.node_sim_time
    if recording.sim_time and not wants:
        return warn("clock", "/clock is published, but the node runs on wall time", "set use_sim_time of the node")
    if wants and not recording.sim_time:
        return fail(
            "clock", "use_sim_time is set, but nobody publishes /clock", "ros2 bag play --clock, or set it false"
        )
    return ok("clock", "simulated, from /clock" if recording.sim_time else "of this machine")


def _profile_remedy() -> str:
    return f"export {variable()}={our_profile()} before the camera drivers and the node start"

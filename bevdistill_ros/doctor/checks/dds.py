"""The transport: the Fast DDS profile, without which bursts of images are lost, and the memory that it shares."""

import contextlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from bevdistill_ros.core.files import read_text
from bevdistill_ros.doctor.finding import Finding, fail, ok, warn
from bevdistill_ros.interface.fast_dds import VARIABLES, our_profile, variable
from bevdistill_ros.interface.shared_memory import SHARED_MEMORY, remove_leftovers

DEFAULT_SEGMENT = 512 * 1024  # [bytes] of Fast DDS without a profile
BURSTS = 2  # that a segment must hold: one is written while another is read
MAX_PROFILE_BYTES = 1_000_000
_MB = 1e6


@dataclass(frozen=True, kw_only=True)
class Transport:
    """What a profile says about shared memory."""

    segment_bytes: int  # 0 where shared memory is not used
    max_message_bytes: int


def check_dds(rmw: str, *, num_cameras: int, image_bytes: float, environment: Mapping[str, str]) -> list[Finding]:
    """Findings about the transport.

    Args:
        rmw: The middleware in use, such as rmw_fastrtps_cpp.
        num_cameras: Cameras that publish at once.
        image_bytes: Mean size of an image message.
        environment: Environment variables.
    """
    if "fastrtps" not in rmw:
        remedy = "see its documentation for large messages; the section topics shows whether images are lost"
        return [warn("profile", f"{rmw} has no profile of ours", remedy)]
    path = environment.get(variable(), "")
    findings = [_check_profile(path, num_cameras, image_bytes, environment)]
    segment = DEFAULT_SEGMENT
    if path and Path(path).is_file():
        with contextlib.suppress(ValueError):  # reported already
            segment = read_profile(Path(path)).segment_bytes
    leftovers = remove_leftovers()
    if leftovers.count:
        findings.append(ok(str(SHARED_MEMORY), f"removed {leftovers}"))
    findings.append(check_memory(SHARED_MEMORY, segment))
    return findings


def _check_profile(path: str, num_cameras: int, image_bytes: float, environment: Mapping[str, str]) -> Finding:
    remedy = f"export {variable()}={our_profile()} for the node and for the camera drivers"
    other = next((name for name in VARIABLES if name != variable() and environment.get(name)), "")
    if not path and other:
        return fail("profile", f"{other} is set, but this distribution reads {variable()}", remedy)
    if not path and environment.get("FASTDDS_BUILTIN_TRANSPORTS"):
        text = f"FASTDDS_BUILTIN_TRANSPORTS is {environment['FASTDDS_BUILTIN_TRANSPORTS']}, and there is no profile"
        return warn("profile", text, "see in the section topics whether images are lost; if so: " + remedy)
    if not path:
        text = f"{variable()} is not set; the default segment of {DEFAULT_SEGMENT // 1024} kB loses bursts of images"
        return fail("profile", text, remedy)
    try:
        transport = read_profile(Path(path))
    except ValueError as error:
        return fail("profile", f"{variable()}: {error}", remedy)
    needed = BURSTS * num_cameras * image_bytes
    size = f"segment of {transport.segment_bytes / _MB:.1f} MB"
    if not transport.segment_bytes:
        return fail("profile", f"'{path}' gives its default participant no shared memory", remedy)
    if transport.segment_bytes < needed:
        text = f"'{path}' has a {size}, but two bursts of your images need {needed / _MB:.1f} MB"
        return fail("profile", text, f"raise segment_size and maxMessageSize, or {remedy}")
    if transport.max_message_bytes < image_bytes:
        piece = f"{transport.max_message_bytes / 1e3:.0f} kB"
        text = f"'{path}' cuts images of {image_bytes / 1e3:.0f} kB into pieces of {piece}"
        return warn("profile", text, f"raise maxMessageSize, or {remedy}")
    return ok("profile", f"'{path}', {size}; the camera drivers need it too")


def read_profile(path: Path) -> Transport:
    """What the default participant of a profile says about shared memory.

    Raises:
        ValueError: The file cannot be read, or is not a profile.
    """
    text = read_text(path, what="Fast DDS profile", max_bytes=MAX_PROFILE_BYTES)
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(f"'{path}' is not XML: {error}") from error
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]  # with and without the namespace of Fast DDS
    transports = {item.findtext("transport_id", "").strip(): item for item in root.iter("transport_descriptor")}
    participants = [item for item in root.iter("participant") if item.get("is_default_profile") == "true"]
    names = [
        (item.text or "").strip() for entry in participants for item in entry.findall(".//userTransports/transport_id")
    ]
    shared = [transports[name] for name in names if name in transports and _is_shared(transports[name])]
    if not shared:
        return Transport(segment_bytes=0, max_message_bytes=0)
    return Transport(
        segment_bytes=_number(shared[0], "segment_size", DEFAULT_SEGMENT, path),
        max_message_bytes=_number(shared[0], "maxMessageSize", 65_500, path),
    )


def check_memory(folder: Path, segment_bytes: int) -> Finding:
    """Whether the folder of shared memory has room for the segments of several processes."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return warn(str(folder), f"cannot be looked at: {error.strerror}", "shared memory may not be there at all")
    text = f"{free / _MB:.0f} MB free, a segment is {segment_bytes / _MB:.1f} MB a process"
    remedy = "make it larger (docker run --shm-size=1g or --ipc=host), or end processes that hold fastdds_* files there"
    if free < segment_bytes:
        return fail(str(folder), text, remedy)
    return warn(str(folder), text, remedy) if free < 4 * segment_bytes else ok(str(folder), text)


def _is_shared(transport: ElementTree.Element) -> bool:
    return transport.findtext("type", "").strip().upper() == "SHM"


def _number(element: ElementTree.Element, tag: str, default: int, path: Path) -> int:
    text = element.findtext(tag, "").strip()
    if text and not text.isdecimal():
        raise ValueError(f"'{path}': {tag} must be a whole number, but is '{text}'")
    return int(text or default)

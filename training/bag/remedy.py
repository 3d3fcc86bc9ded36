"""What a file is that cannot be read as a bag, and which command mends or converts it."""

import struct
from pathlib import Path

STORAGES = (".mcap", ".db3")
_MCAP_MAGIC, _ROS1_MAGIC = b"\x89MCAP0\r\n", b"#ROSBAG V"
_SQLITE_MAGIC, _ZSTD_MAGIC = b"SQLite format 3", b"\x28\xb5\x2f\xfd"
_HEAD_BYTES = 1 << 16
_MAX_PROFILE = 64


def remedy_for(path: Path) -> str:
    """What a file that cannot be read is, and what mends or converts it; empty where it is not known."""
    if path.is_dir():
        remedies = [remedy_for(entry) for entry in sorted(path.iterdir()) if entry.suffix in STORAGES]
        return next(filter(None, remedies), f"; ros2 bag reindex {path} writes its metadata again")
    if not path.is_file():
        return ""
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
    except OSError:
        return ""
    target = path.with_name(f"{path.stem}-mended{path.suffix}")
    if not head:
        return f"; {path.name} is empty"
    if head.startswith(_ROS1_MAGIC):
        return f"; it is a bag of ROS 1: rosbags-convert --src {path} --dst {path.with_suffix('')}"
    if head.startswith(_ZSTD_MAGIC):
        return f"; it is compressed as a file: unzstd {path}"
    if head.startswith(_MCAP_MAGIC):
        return _mcap_remedy(path, head, target)
    if head.startswith(_SQLITE_MAGIC):
        return f"; the recording may have been cut off: sqlite3 {path} .recover | sqlite3 {target}"
    if path.suffix in STORAGES:
        kind = "an MCAP" if path.suffix == ".mcap" else "an SQLite"
        return f"; it is not {kind} file: it begins with {head[:8].hex(' ')}"
    return ""


def _mcap_remedy(path: Path, head: bytes, target: Path) -> str:
    """For an MCAP: one of another profile must be converted, others were cut off or are damaged."""
    profile = _profile_of(head)
    if profile not in (None, "ros2"):
        encoding = next((name for name in ("protobuf", "flatbuffer", "json", "ros1") if name.encode() in head), "")
        messages = f" of {encoding} messages" if encoding else ""
        return (
            f"; it is an MCAP{messages} with the profile '{profile}', not one of ROS 2 messages (CDR): "
            "convert it, or let its writer export ROS 2"
        )
    return f"; the recording may have been cut off: mcap recover {path} -o {target}"


def _profile_of(head: bytes) -> str | None:
    """The profile that the header record of an MCAP names; None where it cannot be read."""
    try:
        opcode, _, length = struct.unpack_from("<BQI", head, len(_MCAP_MAGIC))
    except struct.error:
        return None
    start = len(_MCAP_MAGIC) + 13
    if opcode != 1 or length > _MAX_PROFILE:
        return None
    return head[start : start + length].decode("utf-8", "replace")

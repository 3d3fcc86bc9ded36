"""The storage files of a rosbag2, opened within limits.

A bag may come from anywhere: no pipe is waited for, nothing unpacks without end, and whatever the parsers of rosbags
raise on damaged input becomes a BagError.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from typing import Any

import apsw
import yaml
from backports import zstd
from lz4.frame import LZ4FrameDecompressor
from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader, ReaderError, storage_mcap, storage_sqlite3

from bevdistill_ros.core.files import read_text
from bevdistill_ros.core.text import one_line, quote
from bevdistill_ros.interface.topics import absolute
from training.bag.remedy import STORAGES, remedy_for

METADATA_FILE = "metadata.yaml"
NEWEST_VERSION = 9  # of the metadata
MAX_METADATA_BYTES = 16_000_000
MAX_MEMORY_BYTES = 384 << 20  # that one message, or all chunks that overlap in time, may unpack to
MAX_FILE_BYTES = 1 << 30  # that a compressed storage file may unpack to whatever its size
MAX_FILE_RATIO = 32  # and by which factor it may grow beyond that
_BLOCK_BYTES = 1 << 20
_MAX_DEPTH = 30  # of nested metadata


class BagError(ValueError):
    """A bag that cannot be read, or lacks what is asked of it."""


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """What the metadata of a bag says about its storage files."""

    files: tuple[Path, ...]
    counts: dict[str, int]  # topic: number of messages
    compression: str  # file, message or empty; what MCAP compresses itself is not mentioned


@dataclass(frozen=True, kw_only=True)
class Stored:
    """One message of a storage file."""

    topic: str  # with its leading slash
    message_type: str
    received_ns: int  # when it was recorded
    data: bytes


class Storages:
    """The open storage files of a bag.

    Args:
        readers: Of the files, in their order.
        declared: Messages by topic that the metadata counts; None where there is no metadata.
        is_packed: Whether each message is compressed by itself.
    """

    def __init__(self, readers: list[Reader], declared: dict[str, int] | None, *, is_packed: bool) -> None:
        self._readers = readers
        self._is_packed = is_packed
        self.declared = declared
        self.topics: dict[str, str] = {}  # topic: type of its messages
        self.counts: dict[str, int] = {}  # topic: messages that the files count
        for connection in self._connections():
            topic = absolute(connection.topic)
            self.topics.setdefault(topic, connection.msgtype)
            self.counts[topic] = self.counts.get(topic, 0) + connection.msgcount

    @property
    def span_ns(self) -> tuple[int, int]:
        """Stamps of the first message, and just behind the last [ns]."""
        filled = [reader for reader in self._readers if reader.message_count]
        return min(reader.start_time for reader in filled), max(reader.end_time for reader in filled)

    def messages(self, topics: set[str]) -> Iterator[Stored]:
        """Messages of some topics, file by file, by rising time of receipt within a file."""
        for reader in self._readers:
            chosen = [connection for connection in reader.connections if absolute(connection.topic) in topics]
            if not chosen:  # rosbags takes this for all
                continue
            for connection, received_ns, data in reader.messages(chosen):
                content = _unzstd(data, MAX_MEMORY_BYTES) if self._is_packed else bytes(data)
                yield Stored(
                    topic=absolute(connection.topic),
                    message_type=connection.msgtype,
                    received_ns=received_ns,
                    data=content,
                )

    def _connections(self) -> Iterator[Connection]:
        for reader in self._readers:
            yield from reader.connections


@contextmanager
def open_storages(path: Path) -> Iterator[Storages]:
    """Open a bag directory or a single storage file.

    Raises:
        BagError: It is missing, damaged, not a bag, or would take too much memory; also while it is read.
    """
    with _reported(path), ExitStack() as stack:
        metadata = read_metadata(path) if (path / METADATA_FILE).exists() else None
        files = metadata.files if metadata else storages_in(path)
        compression = metadata.compression if metadata else ""
        for file in files:
            _check_ordinary(file, path)
        if compression == "file":
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="bevdistill-bag-")))
            files = tuple(_unpacked(file, folder) for file in files)
        readers = [stack.enter_context(Reader(file)) for file in files]
        for reader in readers:
            _limit(reader)
        if metadata is None:
            readers.sort(key=lambda reader: reader.start_time)
        yield Storages(readers, metadata.counts if metadata else None, is_packed=compression == "message")


def storages_in(path: Path) -> tuple[Path, ...]:
    """The file itself, or the storage files of a directory without metadata, as copies and crashes leave it.

    Raises:
        BagError: There is none.
    """
    if not path.is_dir():
        return (path,)
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    found = tuple(entry for entry in entries if entry.suffix in STORAGES)
    if not found:
        other = next(filter(None, (remedy_for(entry) for entry in entries if entry.is_file())), "")
        inside = ", ".join(one_line(entry.name) for entry in entries[:5]) or "nothing"
        raise BagError(f"{path} is not a bag: it has no {METADATA_FILE} and no .mcap or .db3 file, but {inside}{other}")
    return found


def read_metadata(folder: Path) -> Metadata:
    """Read the metadata of a bag directory.

    Raises:
        BagError: It is damaged, or of a kind of bag that is not supported.
    """
    path = folder / METADATA_FILE
    content = _plain_yaml(path, read_text(path, what="metadata", max_bytes=MAX_METADATA_BYTES))
    try:
        information = content["rosbag2_bagfile_information"]
        version, mode = int(information["version"]), information.get("compression_mode", "").lower()
        compression = "" if mode in ("none", "storage") else mode  # what MCAP packs itself, it names itself
        codec = information.get("compression_format", "") if compression else "zstd"
        names = [PurePath(name).name for name in information["relative_file_paths"]]
        entries = [
            (topic["topic_metadata"], topic["message_count"]) for topic in information["topics_with_message_count"]
        ]
        formats = {entry["serialization_format"] for entry, _ in entries}
        counts: dict[str, int] = {}
        for entry, count in entries:
            topic = absolute(entry["name"])
            counts[topic] = counts.get(topic, 0) + int(count)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise BagError(f"{path} does not describe a bag: {type(error).__name__}: {one_line(error)}") from error
    if version > NEWEST_VERSION:
        raise BagError(f"{path} is of version {version}; up to {NEWEST_VERSION} can be read")
    if compression not in ("", "file", "message") or codec != "zstd":
        raise BagError(f"{path}: compression {quote(compression)} with {quote(codec)} is not supported, only zstd")
    if formats - {"cdr"}:
        raise BagError(f"{path}: serialization {quote(min(formats - {'cdr'}))} is not supported, only cdr")
    return Metadata(files=tuple(folder / name for name in names), counts=counts, compression=compression)


def _plain_yaml(path: Path, text: str) -> Any:
    """Text, lists and mappings of a YAML file: nothing in the file can choose another type."""
    loader: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    opening, closing = (yaml.MappingStartEvent, yaml.SequenceStartEvent), (yaml.MappingEndEvent, yaml.SequenceEndEvent)
    depth = 0
    try:
        for event in yaml.parse(text, Loader=loader):
            depth += isinstance(event, opening) - isinstance(event, closing)
            if depth > _MAX_DEPTH:  # the parser in C would overflow its stack
                raise BagError(f"{path} is not metadata: its values are nested more than {_MAX_DEPTH} deep")
        return yaml.load(text, Loader=loader)
    except yaml.YAMLError as error:
        raise BagError(f"{path} is not YAML: {one_line(error)}") from error


def _check_ordinary(file: Path, bag: Path) -> None:
    """Refuse what would be waited for, and a database whose last messages still lie in its log."""
    if not file.exists():
        there = [entry.name for entry in sorted(bag.iterdir()) if entry.suffix in STORAGES] if bag.is_dir() else []
        hint = f"; give {bag / there[0]} itself, or write the metadata again: ros2 bag reindex {bag}" if there else ""
        raise BagError(f"storage file {file} is missing{hint}")
    if not file.is_file():
        raise BagError(f"{file} is not an ordinary file")
    log = file.with_name(f"{file.name}-wal")
    if log.exists() and log.stat().st_size:
        raise BagError(
            f"{file} was not closed: its last messages lie in {log.name}; "
            f"merge it with: sqlite3 {file.name} 'PRAGMA wal_checkpoint(TRUNCATE)'"
        )


def _unpacked(file: Path, folder: Path) -> Path:
    """Unpack a compressed storage file into a folder."""
    target = folder / file.stem
    limit = max(MAX_FILE_BYTES, MAX_FILE_RATIO * file.stat().st_size)
    with zstd.open(file, "rb") as source, target.open("xb") as sink:
        size = 0
        while block := source.read(_BLOCK_BYTES):
            size += len(block)
            if size > limit:
                raise BagError(f"{file} unpacks to more than {limit / 1e9:.1f} GB; unpack it yourself if it is right")
            sink.write(block)
    return target


def _limit(reader: Reader) -> None:
    """Keep an open storage file from filling the memory."""
    storage: Any = reader.storage
    if isinstance(storage, storage_mcap.McapReader):
        _check_chunks(storage.chunks)
    else:
        storage.dbconn.limit(apsw.SQLITE_LIMIT_LENGTH, MAX_MEMORY_BYTES)


def _check_chunks(chunks: list[storage_mcap.ChunkInfo]) -> None:
    """Refuse chunks that overlap in time and are too large together, as rosbags unpacks all these at once."""
    changes = [(chunk.message_start_time, 0, chunk.uncompressed_size) for chunk in chunks]
    changes += [(chunk.message_end_time, 1, -chunk.uncompressed_size) for chunk in chunks]
    size = 0
    for _, _, change in sorted(changes):
        size += change
        if size > MAX_MEMORY_BYTES:
            raise BagError(
                f"chunks that overlap in time unpack to {size / 1e6:.0f} MB, and at most "
                f"{MAX_MEMORY_BYTES / 1e6:.0f} MB are allowed"
            )


def _unzstd(data: bytes, limit: int) -> bytes:
    """Unpack zstd frames to at most `limit` bytes."""
    parts, size = [], 0
    while data:
        decompressor = zstd.ZstdDecompressor()
        parts.append(decompressor.decompress(data, max_length=limit + 1 - size))
        size += len(parts[-1])
        if size > limit:
            raise ReaderError(f"compressed data unpack to more than {limit} bytes")
        if not decompressor.eof:
            raise ReaderError("compressed data are cut off")
        data = decompressor.unused_data
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _unlz4(data: bytes, limit: int) -> bytes:
    """Unpack an lz4 frame to at most `limit` bytes."""
    content = LZ4FrameDecompressor().decompress(data, max_length=limit + 1)
    if len(content) > limit:
        raise ReaderError(f"compressed data unpack to more than {limit} bytes")
    return bytes(content)


def _chunk_limit(size: int) -> int:
    """What a chunk may unpack to that says it is `size` bytes long."""
    if size > MAX_MEMORY_BYTES:
        raise ReaderError(f"a chunk says that it unpacks to {size / 1e6:.0f} MB")
    return size


# rosbags parses the quality of service of each topic with a YAML parser in pure Python, for each time that a file is
# opened; there are a few different ones.
_quality_of = lru_cache(maxsize=256)(storage_mcap.parse_qos)
for module in (storage_mcap, storage_sqlite3):
    vars(module)["parse_qos"] = _quality_of

# rosbags unpacks whatever there is and compares the size only then.
storage_mcap.DECOMPRESSORS.update(
    zstd=lambda data, size: _unzstd(data, _chunk_limit(size)), lz4=lambda data, size: _unlz4(data, _chunk_limit(size))
)


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Turn whatever is raised inside into a BagError."""
    try:
        yield
    except BagError:
        raise
    except Exception as error:  # rosbags lets through whatever its parsers raise on damaged input
        reason = f"{type(error).__name__}: " if not isinstance(error, (ReaderError, OSError, ValueError)) else ""
        raise BagError(f"bag {path} cannot be read: {reason}{one_line(error)}{remedy_for(path)}") from error

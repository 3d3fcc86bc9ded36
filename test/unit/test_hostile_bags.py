"""Bags that anybody may have made: each is refused with one line, or what it loses is counted."""

import os
import sqlite3
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from backports import zstd
from lz4.frame import compress as lz4_compress
from rosbags.rosbag2 import StoragePlugin, Writer
from small_bags import SAMPLE, STRING, small_bag, storage_file

from bevdistill_ros.interface.topics import TopicMap
from training.bag import messages, storage
from training.bag.read_bag import Bag, BagError, poses_of, read_bag, samples_of
from training.bag.rig import _intrinsics_of

MAGIC = b"\x89MCAP0\r\n"
GOOD_SAMPLE = (
    '{"scene":"a","sample_token":"b","stamp_ns":%s,"channel_stamps_ns":%s,'
    '"global_from_map":{"rotation":%s,"translation":%s}}'
)


def record(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + struct.pack("<Q", len(body)) + body


def text(content: str) -> bytes:
    return struct.pack("<I", len(content)) + content.encode()


def mcap(path: Path, body: bytes) -> Path:
    """A storage file without an index."""
    head = record(1, text("ros2") + text("x"))
    path.write_bytes(MAGIC + head + body + record(2, struct.pack("<QQI", 0, 0, 0)) + MAGIC)
    return path


def chunk(compression: str, content: bytes, *, size: int) -> bytes:
    """A chunk that says that it unpacks to `size` bytes."""
    head = struct.pack("<QQQI", 1, 2, size, 0) + text(compression)
    return record(6, head + struct.pack("<Q", len(content)) + content)


def change_metadata(bag: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = bag / "metadata.yaml"
    content = yaml.safe_load(path.read_text())
    change(content["rosbag2_bagfile_information"])
    path.write_text(yaml.safe_dump(content))


def topic_metadata(information: dict[str, Any], topic: str) -> dict[str, Any]:
    entries = [entry["topic_metadata"] for entry in information["topics_with_message_count"]]
    return next(entry for entry in entries if entry["name"] == topic)


def read_all(path: Path) -> tuple[Bag, int]:
    bag = read_bag(path)
    return bag, sum(1 for _ in bag.messages())


@pytest.fixture(params=["mcap", "sqlite3"])
def bag_path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    kind = StoragePlugin.MCAP if request.param == "mcap" else StoragePlugin.SQLITE3
    return small_bag(tmp_path / "small", kind)


@pytest.mark.timeout(60)  # a pipe would be waited for without end
@pytest.mark.parametrize("place", ["storage", "metadata", "path"])
def test_a_pipe_is_refused_at_once(bag_path: Path, place: str) -> None:
    file = storage_file(bag_path) if place != "metadata" else bag_path / "metadata.yaml"
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(BagError, match=r"(not an|no) ordinary file"):
        read_bag(file if place == "path" else bag_path)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (bytes([3]) + struct.pack("<Q", 2**63), "cannot be read"),
        (bytes([3]) + struct.pack("<Q", 2**62), "cannot be read"),
        (chunk("zstd", b"not zstd!", size=9), "cannot be read"),
        (chunk("zstd", zstd.compress(bytes(1 << 20)) * 64, size=100), "unpack to more than 100 bytes"),
        (chunk("zstd", zstd.compress(bytes(100))[:-3], size=100), "are cut off"),
        (chunk("lz4", lz4_compress(bytes(1 << 20)), size=100), "unpack to more than 100 bytes"),
        (chunk("zstd", zstd.compress(bytes(100)), size=2**40), "a chunk says that it unpacks to 1099512 MB"),
        (chunk("rar", b"", size=0), "Unsupported chunk compression 'rar'"),
    ],
)
def test_storage_files_that_are_not_what_they_say(tmp_path: Path, body: bytes, reason: str) -> None:
    with pytest.raises(BagError, match=reason) as caught:
        read_bag(mcap(tmp_path / "x.mcap", body))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


def test_a_chunk_does_not_fill_the_memory(tmp_path: Path) -> None:
    """17 kB that would unpack to 512 MiB."""
    path = mcap(tmp_path / "x.mcap", chunk("zstd", zstd.compress(bytes(1 << 24)) * 32, size=100))
    tracemalloc.start()
    try:
        with pytest.raises(BagError):
            read_bag(path)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_chunks_that_overlap_are_counted_together(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = small_bag(tmp_path / "bag")
    size = storage_file(path).stat().st_size
    monkeypatch.setattr(storage, "MAX_MEMORY_BYTES", size // 10)
    with pytest.raises(BagError, match="chunks that overlap in time unpack to"):
        read_bag(path)


def test_a_packed_storage_file_unpacks_within_limits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = small_bag(tmp_path / "bag")
    file = storage_file(path)
    packed = file.with_name(f"{file.name}.zstd")
    packed.write_bytes(zstd.compress(file.read_bytes()))
    file.unlink()
    change_metadata(
        path,
        lambda found: found.update(
            compression_mode="FILE", compression_format="zstd", relative_file_paths=[packed.name]
        ),
    )
    bag, count = read_all(path)
    assert count == sum(bag.counts.values()) == 18
    packed.write_bytes(zstd.compress(bytes(1 << 22)))
    monkeypatch.setattr(storage, "MAX_FILE_BYTES", 1 << 20)
    with pytest.raises(BagError, match="unpacks to more than"):
        read_bag(path)


def test_packed_messages_unpack_within_limits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = small_bag(tmp_path / "bag", StoragePlugin.SQLITE3)
    with sqlite3.connect(storage_file(path)) as database:
        for number, data in database.execute("select id, data from messages").fetchall():
            database.execute("update messages set data = ? where id = ?", (zstd.compress(data), number))
    database.close()
    change_metadata(path, lambda found: found.update(compression_mode="MESSAGE", compression_format="zstd"))
    assert len(samples_of(read_bag(path))) == 6
    monkeypatch.setattr(storage, "MAX_MEMORY_BYTES", 50)
    with pytest.raises(BagError, match=r"unpack to more than 50 bytes|too big"):
        read_all(path)


def test_a_database_cannot_make_up_a_large_message(tmp_path: Path) -> None:
    """A column that SQLite computes takes no room in the file."""
    path = small_bag(tmp_path / "bag", StoragePlugin.SQLITE3)
    with sqlite3.connect(storage_file(path)) as database:
        database.execute("drop table messages")
        database.execute(
            "create table messages(id integer primary key, topic_id integer, timestamp integer,"
            " data blob generated always as (zeroblob(900000000)))"
        )
        for index in range(18):
            database.execute("insert into messages values (?, 1, ?)", (index, 1_000_000_000 + index))
    database.close()
    change_metadata(
        path, lambda found: [entry.update(message_count=18 * (number == 0)) for number, entry in
                             enumerate(found["topics_with_message_count"])]
    )  # fmt: skip
    with pytest.raises(BagError, match="too big"):
        read_all(path)


def test_a_database_with_an_open_log(tmp_path: Path) -> None:
    path = small_bag(tmp_path / "bag", StoragePlugin.SQLITE3)
    storage_file(path).with_name("bag.db3-wal").write_bytes(b"x")
    with pytest.raises(BagError, match=r"its last messages lie in bag\.db3-wal; merge it with"):
        read_bag(path)


@pytest.mark.parametrize("field", ["offered_qos_profiles", "type_description_hash"])
def test_metadata_do_not_decide_what_is_read(bag_path: Path, field: str) -> None:
    change_metadata(
        bag_path, lambda found: topic_metadata(found, "/odom").update({field: "" if "qos" in field else "x"})
    )
    bag, count = read_all(bag_path)
    assert count == sum(bag.counts.values()) == 18
    assert bag.losses.of(bag.topics) == 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda found: topic_metadata(found, "/odom").update(name="/z"), "count 0 messages of '/odom'.* 6"),
        (lambda found: topic_metadata(found, "/odom").update(name=5), "metadata of bag .* count"),
        (lambda found: found["topics_with_message_count"][0].update(message_count="many"), "does not describe a bag"),
        (lambda found: found.update(version=99), "is of version 99"),
        (lambda found: found.update(version=None), "does not describe a bag"),
        (lambda found: found.update(relative_file_paths=["../../etc/passwd"]), "passwd is missing"),
        (lambda found: found.update(relative_file_paths=["."]), "cannot be read|not an ordinary file|is missing"),
        (lambda found: found.update(relative_file_paths=[["x"]]), "does not describe a bag"),
        (lambda found: found.update(relative_file_paths=[]), "holds no message|is incomplete"),
        (lambda found: found.update(compression_mode="FILE", compression_format="rar"), "'file' with 'rar'"),
        (lambda found: found.update(compression_mode="x" * 100_000, compression_format="zstd"), "is not supported"),
        (lambda found: topic_metadata(found, "/odom").update(serialization_format="json"), "serialization 'json'"),
    ],
)  # fmt: skip
def test_metadata_that_do_not_fit(bag_path: Path, change: Callable[[dict[str, Any]], object], reason: str) -> None:
    change_metadata(bag_path, change)
    with pytest.raises(BagError, match=reason) as caught:
        read_bag(bag_path)
    assert len(str(caught.value)) < 600 + 2 * len(str(bag_path))


ALIASES = "a: &a [" + ",".join("xxxxxxxxxx") + "]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)  # fmt: skip


@pytest.mark.parametrize(
    "content",
    ["[" * 100_000, "{a: " * 5000, "a: !!timestamp 99", "a\x00b", "!!python/object/apply:os.getcwd []", "[1, 2", "",
     ALIASES + "rosbag2_bagfile_information: *i", "&a [*a]"],
)  # fmt: skip
def test_metadata_that_are_no_metadata(bag_path: Path, content: str) -> None:
    (bag_path / "metadata.yaml").write_text(content)
    with pytest.raises(BagError) as caught:
        read_bag(bag_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500 + len(str(bag_path))


def test_a_zeroed_block_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = small_bag(tmp_path / "bag", num=60)
    file = storage_file(path)
    data = bytearray(file.read_bytes())
    start = len(data) // 5
    data[start : start + 8000] = bytes(8000)
    file.write_bytes(data)
    bag, count = read_all(path)
    assert 0 < count < 180
    assert sum(bag.losses.missing.values()) == bag.losses.of(bag.topics) == 180 - count
    lines = [entry.message for entry in caplog.records]
    assert len(lines) == 1
    assert f"{180 - count} messages did not come out, the file is damaged" in lines[0]
    list(bag.messages())
    assert len(caplog.records) == 1  # reported once


def damage(path: Path, part: bytes, new: bytes) -> None:
    file = storage_file(path)
    data = bytearray(file.read_bytes())
    at = data.find(part)
    assert at > 0
    data[at : at + len(new)] = new
    file.write_bytes(data)


def test_a_damaged_message_is_skipped_and_counted(bag_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    damage(bag_path, b"token3", b"\xff")
    bag = read_bag(bag_path)
    assert [sample.token for sample in samples_of(bag)] == ["token0", "token1", "token2", "token4", "token5"]
    assert bag.losses.damaged == {SAMPLE: 1}
    assert [entry.message for entry in caplog.records] == [
        f"{bag_path}: 1 of 6 messages of {SAMPLE} are damaged and skipped: SerdeError: Could not deserialize "
        "'std_msgs/msg/String': 'utf-8' codec can't decode byte 0xff in position "
        f"{caplog.records[0].message.split('position ')[1].split(':')[0]}: invalid start byte"
    ]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_poses_that_are_not_finite_are_not_taken(bag_path: Path, value: float) -> None:
    damage(bag_path, struct.pack("<d", 4.0), struct.pack("<d", value))
    bag = read_bag(bag_path)
    assert len(poses_of(bag, TopicMap())) == 5
    assert bag.losses.damaged == {"/odom": 1}


def test_a_calibration_that_is_damaged_gives_way_to_the_next(bag_path: Path) -> None:
    """The bag has no mountings, which are missed only once all cameras are calibrated."""
    focal, broken = struct.pack("<d", 50.0), struct.pack("<d", np.nan)
    damage(bag_path, focal, broken)
    kind, topic = "sensor_msgs/msg/CameraInfo", "/CAM_FRONT/camera_info"
    assert len(list(read_bag(bag_path).decoded(topic, kind, _intrinsics_of))) == 5
    file = storage_file(bag_path)
    file.write_bytes(file.read_bytes().replace(focal, broken))
    bag = read_bag(bag_path)
    assert not list(bag.decoded(topic, kind, _intrinsics_of))
    assert bag.losses.damaged == {topic: 6}


def sample_bag(path: Path, content: str) -> Bag:
    store = messages.standard_types()
    with Writer(path, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection(SAMPLE, STRING, typestore=store)
        writer.write(connection, 1, messages.serialize(messages.standard_types().types[STRING](data=content), STRING))
    return read_bag(path)


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        "{}",
        "null",
        "not JSON",
        GOOD_SAMPLE % (1, "null", "[1,0,0,0]", "[0,0,0]"),
        GOOD_SAMPLE % (1, '{"CAM_FRONT": 1.5}', "[1,0,0,0]", "[0,0,0]"),
        GOOD_SAMPLE % (1, '{"CAM_FRONT": true}', "[1,0,0,0]", "[0,0,0]"),
        GOOD_SAMPLE % ("1e999", "{}", "[1,0,0,0]", "[0,0,0]"),
        GOOD_SAMPLE % ('"1"', "{}", "[1,0,0,0]", "[0,0,0]"),
        GOOD_SAMPLE % (1, "{}", "[1" + "0" * 500 + ",0,0,0]", "[0,0,0]"),
        GOOD_SAMPLE % (1, "{}", "[0,0,0,0]", "[0,0,0]"),
        GOOD_SAMPLE % (1, "{}", "[NaN,0,0,0]", "[0,0,0]"),
        GOOD_SAMPLE % (1, "{}", "[1,0,0,0]", "[NaN,0,0]"),
        GOOD_SAMPLE % (1, "{}", "[1,0,0,0]", "[0,0]"),
        GOOD_SAMPLE % (1, "{}", "[1,0,0,0]", '"x"'),
    ],
)
def test_samples_that_say_nothing(tmp_path: Path, content: str) -> None:
    bag = sample_bag(tmp_path / "bag", content)
    with pytest.raises(BagError, match="no message of /nuscenes/sample is readable"):
        samples_of(bag)
    assert bag.losses.damaged == {SAMPLE: 1}


def test_topics_of_another_type(bag_path: Path) -> None:
    bag = read_bag(bag_path)
    with pytest.raises(BagError, match="/odom holds 'nav_msgs/msg/Odometry', but must hold std_msgs/msg/String"):
        list(bag.decoded("/odom", STRING))


def test_stamps_that_cannot_be_right(tmp_path: Path) -> None:
    path = small_bag(tmp_path / "bag", StoragePlugin.SQLITE3)
    with sqlite3.connect(storage_file(path)) as database:
        database.execute("update messages set timestamp = ? where id = 3", (2**62,))
    database.close()
    with pytest.raises(BagError, match="cannot be right: its messages lie between 1000000000 and 4611686018427387905"):
        read_bag(path)

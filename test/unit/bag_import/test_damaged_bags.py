"""Damaged recordings: one clear line, or what is lost is counted; no crash, and memory stays bounded."""

import json
import resource
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign_bags import rewritten
from rosbags.rosbag2 import Reader, StoragePlugin, Writer

from training.bag import messages
from training.bag.read_bag import BagError, read_bag
from training.bag_import.config import BagImportConfig
from training.bag_import.info import info_of
from training.bag_import.one_bag import import_bag, rows_path

NUM_FAST, NUM_ALL = 1, 24  # of each kind of damage; thirteen kinds
MAX_GROWTH_KIB = 2 << 20
MILLION = 1_000_000
Rng = np.random.Generator
Entry = tuple[int, str, str, bytes]


def entries_of(bag: Path) -> list[Entry]:
    with Reader(bag) as reader:
        return [
            (stamp, connection.topic, connection.msgtype, bytes(data)) for connection, stamp, data in reader.messages()
        ]


def write(path: Path, entries: list[Entry], storage: StoragePlugin = StoragePlugin.MCAP) -> Path:
    store, made = messages.standard_types(), {}
    with Writer(path, version=8, storage_plugin=storage) as writer:
        for stamp, topic, kind, data in entries:
            if topic not in made:
                known = kind in store.fielddefs
                more = {"typestore": store} if known else {"msgdef": "int32 x\n", "rihs01": "RIHS01_" + "0" * 64}
                made[topic] = writer.add_connection(topic, kind, **more)
            writer.write(made[topic], stamp, data)
    return path


def pick(entries: list[Entry], rng: Rng) -> str:
    return str(rng.choice(sorted({entry[1] for entry in entries})))


def truncated(entries: list[Entry], rng: Rng) -> list[Entry]:
    """Messages that end early."""
    rows = rng.integers(len(entries), size=5)
    return [(*entry[:3], entry[3][: int(rng.integers(len(entry[3])))]) if row in rows else entry
            for row, entry in enumerate(entries)]  # fmt: skip


def reordered(entries: list[Entry], rng: Rng) -> list[Entry]:
    """Recorded in any order, with stamps of receipt that rise."""
    stamps = sorted(entry[0] for entry in entries)
    order = rng.permutation(len(entries))
    return [(stamp, *entries[row][1:]) for stamp, row in zip(stamps, order, strict=True)]


def missing(entries: list[Entry], rng: Rng) -> list[Entry]:
    topics = {pick(entries, rng) for _ in range(int(rng.integers(1, 4)))}
    return [entry for entry in entries if entry[1] not in topics]


def duplicated(entries: list[Entry], rng: Rng) -> list[Entry]:
    return [entry for entry in entries for _ in range(int(rng.integers(1, 4)))]


def same_stamps(entries: list[Entry], rng: Rng) -> list[Entry]:
    """All headers of a topic with one stamp."""
    topic = pick(entries, rng)
    first = next(entry[3][4:12] for entry in entries if entry[1] == topic)
    return [(*entry[:3], entry[3][:4] + first + entry[3][12:]) if entry[1] == topic else entry for entry in entries]


def wrong_types(entries: list[Entry], rng: Rng) -> list[Entry]:
    """A topic says that it is of another type."""
    topic, kind = pick(entries, rng), str(rng.choice(sorted({entry[2] for entry in entries})))
    return [(entry[0], entry[1], kind, entry[3]) if entry[1] == topic else entry for entry in entries]


def empty(entries: list[Entry], rng: Rng) -> list[Entry]:
    """Messages without content, or no messages at all."""
    topic = pick(entries, rng)
    if rng.integers(4) == 0:
        return []
    return [(*entry[:3], entry[3][:4]) if entry[1] == topic else entry for entry in entries]


def unknown_types(entries: list[Entry], rng: Rng) -> list[Entry]:
    topic = pick(entries, rng)
    return [(entry[0], entry[1], "acme_msgs/msg/Secret", entry[3]) if entry[1] == topic else entry for entry in entries]


def noise(entries: list[Entry], rng: Rng) -> list[Entry]:
    """Bytes of some messages are others."""
    found = []
    for entry in entries:
        data = bytearray(entry[3])
        if rng.integers(6) == 0 and data:
            for place in rng.integers(len(data), size=8):
                data[place] = int(rng.integers(256))
        found.append((*entry[:3], bytes(data)))
    return found


def not_numbers(entries: list[Entry], rng: Rng) -> list[Entry]:
    """Float64 of poses, boxes and calibrations that are not finite, or are large."""
    topics = ("/odom", "/tf", "/tf_static", "/annotations", "/CAM_FRONT/camera_info")
    chosen, value = str(rng.choice(topics)), struct.pack("<d", float(rng.choice([np.nan, np.inf, 1e300, 0.0])))
    found = []
    for entry in entries:
        data = bytearray(entry[3])
        if entry[1] == chosen and len(data) > 60:
            place = 4 + 8 * int(rng.integers(5, len(data) // 8 - 1))
            data[place : place + 8] = value
        found.append((*entry[:3], bytes(data)))
    return found


def far_stamps(entries: list[Entry], rng: Rng) -> list[Entry]:
    """Stamps of headers that are years away, or negative."""
    topic = pick(entries, rng)
    stamp = struct.pack("<iI", int(rng.choice([-5, 0, 2**31 - 1])), int(rng.integers(2**32)))
    return [(*entry[:3], entry[3][:4] + stamp + entry[3][12:]) if entry[1] == topic and rng.integers(2) else entry
            for entry in entries]  # fmt: skip


def damaged_rows(entries: list[Entry], rng: Rng) -> list[Entry]:
    """The JSON of the key frames holds something else."""
    values = [None, [], {}, -1, "x", 1e999, [1, 2], {"a": 1}, True, 2**70]
    found = []
    for entry in entries:
        if entry[1] == "/nuscenes/sample" and rng.integers(2):
            content = json.loads(messages.standard_types().deserialize_cdr(entry[3], entry[2]).data)
            place = content if rng.integers(2) or not content["annotations"] else content["annotations"][0]
            place[str(rng.choice(sorted(place)))] = values[int(rng.integers(len(values)))]
            entry = (*entry[:3], messages.serialize(messages.json_string(content), entry[2]))
        found.append(entry)
    return found


def of_file(entries: list[Entry], rng: Rng) -> list[Entry]:
    """Nothing in the messages: the storage file itself is damaged, see `damage_file`."""
    return entries


def damage_file(bag: Path, rng: Rng) -> None:
    """Cut off, zeroed, overwritten or with single bits changed, as power losses and bad disks leave it."""
    file = next(path for path in bag.iterdir() if path.suffix in (".mcap", ".db3"))
    data = bytearray(file.read_bytes())
    place, size = int(rng.integers(len(data))), int(rng.integers(1, 20_000))
    match rng.integers(4):
        case 0:
            del data[place:]
        case 1:
            data[place : place + size] = bytes(len(data[place : place + size]))
        case 2:
            data[place : place + size] = rng.bytes(len(data[place : place + size]))
        case _:
            for at in rng.integers(len(data), size=5):
                data[at] ^= 1 << int(rng.integers(8))
    file.write_bytes(data)
    if rng.integers(2):
        (bag / "metadata.yaml").unlink()


DAMAGES: tuple[Callable[[list[Entry], Rng], list[Entry]], ...] = (
    truncated, reordered, missing, duplicated, same_stamps, wrong_types, empty, unknown_types, noise, not_numbers,
    far_stamps, damaged_rows, of_file,
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(bags: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Entry]]:
    """Messages of a bag of ours, and of the same without key frames of its own."""
    other = rewritten(bags / "synth-0000", tmp_path_factory.mktemp("whole") / "bag", drop=("/nuscenes/sample",))
    return {"ours": entries_of(bags / "synth-0000"), "theirs": entries_of(other)}


def use(path: Path, folder: Path) -> str:
    """Read, look at and import a bag; how it went."""
    try:
        bag = read_bag(path)
        list(bag.messages())
    except BagError as error:
        check(str(error), path)
    info = info_of(BagImportConfig(bags=(), root=folder / "unused"), path)
    assert len(info.page()) < 12_000
    config = BagImportConfig(bags=(), root=folder / "set", progress=False)
    result = import_bag(config, (path, "bag"))
    if result.error:
        check(result.error, path)
        return "refused"
    assert result.key_frames > 0
    rows = json.loads(rows_path(config, "bag").read_text())["tables"]
    assert all((config.growing / row["filename"]).is_file() for row in rows["sample_data"])
    assert np.isfinite([row["translation"] + row["rotation"] for row in rows["ego_pose"]]).all()
    shutil.rmtree(config.work)
    return "counted" if result.skipped else "whole"


def check(message: str, path: Path) -> None:
    assert "\n" not in message
    assert len(message) < 1500 + 3 * len(str(path)), message


def run(damage: Callable[[list[Entry], Rng], list[Entry]], number: int, whole: Any, folder: Path) -> str:
    rng = np.random.default_rng(number)
    kind = ("ours", "theirs")[number % 2]
    storage = StoragePlugin.SQLITE3 if number % 3 == 0 else StoragePlugin.MCAP
    place = folder / str(number)
    place.mkdir()
    try:
        bag = write(place / "bag", damage(list(whole[kind]), rng), storage)
        if damage is of_file:
            damage_file(bag, rng)
        return use(bag, place)
    finally:
        shutil.rmtree(place)


def memory_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.timeout(120)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_recordings(damage: Callable[..., Any], whole: Any, tmp_path: Path) -> None:
    before = memory_kib()
    assert {run(damage, number, whole, tmp_path) for number in range(NUM_FAST)} <= {"whole", "counted", "refused"}
    assert memory_kib() - before < MAX_GROWTH_KIB


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("damage", DAMAGES)
def test_many_damaged_recordings(damage: Callable[..., Any], whole: Any, tmp_path: Path) -> None:
    before = memory_kib()
    found = [run(damage, number, whole, tmp_path) for number in range(NUM_FAST, NUM_ALL)]
    assert memory_kib() - before < MAX_GROWTH_KIB
    assert {"whole", "counted", "refused"} >= set(found)
    if damage in (truncated, duplicated):
        assert "counted" in found
    if damage in (missing, empty, unknown_types, of_file):
        assert "refused" in found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_million_tiny_messages(whole: dict[str, list[Entry]], tmp_path: Path) -> None:
    """Beside a drive, on a topic that is used: transforms of ten thousand wheels."""
    entries, kind = whole["theirs"], "tf2_msgs/msg/TFMessage"
    start, step = entries[0][0], (entries[-1][0] - entries[0][0]) // MILLION
    tiny = [messages.serialize(messages.transforms([(start, "base_link", f"wheel{number}", np.eye(4))]), kind)
            for number in range(4)]  # fmt: skip
    many = ((start + step * number, "/tf", kind, tiny[number % 4]) for number in range(MILLION))
    path = write(tmp_path / "bag", sorted([*entries, *many], key=lambda entry: entry[0]))
    before = memory_kib()
    config = BagImportConfig(bags=(), root=tmp_path / "set", progress=False)
    result = import_bag(config, (path, "bag"))
    assert (result.error, result.key_frames) == ("", 3)
    assert memory_kib() - before < MAX_GROWTH_KIB

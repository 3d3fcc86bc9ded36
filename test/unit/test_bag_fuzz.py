"""Mutated bags: whatever is changed in them, they are refused with one line, or what is lost is counted."""

import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin
from small_bags import SAMPLE, small_bag, storage_file

from bevdistill_ros.interface.topics import TopicMap
from training.bag.read_bag import BagError, poses_of, read_bag, samples_of
from training.bag.rig import rig_of

NUM_FAST, NUM_ALL = 8, 130  # per kind of bag and of damage
MAX_GROWTH_KIB = 2 << 20  # [KiB] of memory
SCALARS = (
    "null",
    "[]",
    "{}",
    "-1",
    "1e999",
    "x",
    "'" + "y" * 3000 + "'",
    "[[[[1]]]]",
    "true",
    "99999999999999999999",
    "''",
)
BAGS = {
    "mcap": (StoragePlugin.MCAP, False),
    "packed": (StoragePlugin.MCAP, True),
    "sqlite3": (StoragePlugin.SQLITE3, False),
}
Rng = np.random.Generator


def damage_bytes(data: bytearray, rng: Rng) -> bytearray:
    """Change, zero, remove, repeat or cut off bytes somewhere."""
    place, size = int(rng.integers(len(data))), int(rng.integers(1, 400))
    match rng.integers(7):
        case 0:
            data[place] ^= 1 << int(rng.integers(8))
        case 1:
            data[place : place + size] = bytes(len(data[place : place + size]))
        case 2:
            data[place : place + size] = rng.bytes(len(data[place : place + size]))
        case 3:
            del data[place : place + size]
        case 4:
            data[place:place] = data[max(place - size, 0) : place]
        case 5:
            del data[place:]
        case _:  # a size that nobody has
            data[place : place + 8] = int(2 ** rng.integers(20, 64) - 1).to_bytes(8, "little")
    return data


def damage_storage(bag: Path, rng: Rng) -> None:
    file = storage_file(bag)
    file.write_bytes(damage_bytes(bytearray(file.read_bytes()), rng))


def damage_metadata(bag: Path, rng: Rng) -> None:
    path = bag / "metadata.yaml"
    lines = path.read_text().splitlines()
    place = int(rng.integers(len(lines)))
    match rng.integers(4):
        case 0:
            del lines[place]
        case 1:
            lines[place] = lines[place].partition(":")[0] + ": " + str(rng.choice(SCALARS))
        case 2:
            lines.insert(place, lines[int(rng.integers(len(lines)))])
        case _:
            path.write_bytes(damage_bytes(bytearray(path.read_bytes()), rng))
            return
    path.write_text("\n".join(lines))


def damage_samples(bag: Path, rng: Rng) -> None:
    """Other characters in the JSON of a key frame."""
    file = storage_file(bag)
    data = bytearray(file.read_bytes())
    places = [place for place in range(len(data) - 12) if data[place : place + 12] == b"sample_token"]
    if places:
        for _ in range(int(rng.integers(1, 4))):
            data[int(rng.choice(places)) + int(rng.integers(-15, 150))] = int(rng.choice(list(b'"{}[]:,0e-Nx\xff\x00')))
    file.write_bytes(data)


def damage_types(bag: Path, rng: Rng) -> None:
    """A type that is not known, or is that of another topic, in the metadata, in the file or in both."""
    new = str(rng.choice(["evil_msgs/msg/Odometr", "nav_msgs/msg/Path", "std_msgs/msg/String", "x", "a/b/c/d/e"]))
    for path in (bag / "metadata.yaml", storage_file(bag)):
        if rng.integers(3):
            old = b"nav_msgs/msg/Odometry"
            path.write_bytes(path.read_bytes().replace(old, new.encode()[: len(old)].ljust(len(old))))


DAMAGES: tuple[Callable[[Path, Rng], None], ...] = (damage_storage, damage_metadata, damage_samples, damage_types)


def use(path: Path) -> str:
    """Read all that a replay reads; how it went."""
    bag = read_bag(path)
    read = sum(1 for _ in bag.messages())
    assert read + sum(bag.losses.missing.values()) == sum(bag.counts.values())
    for what in (
        lambda: samples_of(bag),
        lambda: poses_of(bag, TopicMap()),
        lambda: rig_of(bag, TopicMap(), ["CAM_FRONT"]),
    ):
        try:
            what()
        except BagError as error:
            check_message(error)
    return "read with losses" if bag.losses.of(bag.topics) else "read"


def check_message(error: BagError) -> None:
    assert "\n" not in str(error)
    assert len(str(error)) < 1500


def run(kind: str, damage: Callable[[Path, Rng], None], number: int, folder: Path) -> str:
    rng = np.random.default_rng(number)
    storage, packed = BAGS[kind]
    bag = small_bag(folder / f"{kind}-{number}", storage, num=4, packed=packed)
    damage(bag, rng)
    try:
        return use(bag)
    except BagError as error:
        check_message(error)
        return "refused"


def memory_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.timeout(120)
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", BAGS)
def test_mutated_bags(kind: str, damage: Callable[[Path, Rng], None], tmp_path: Path) -> None:
    before = memory_kib()
    found = {run(kind, damage, number, tmp_path) for number in range(NUM_FAST)}
    assert found <= {"read", "read with losses", "refused"}
    assert memory_kib() - before < MAX_GROWTH_KIB


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", BAGS)
def test_many_mutated_bags(kind: str, damage: Callable[[Path, Rng], None], tmp_path: Path) -> None:
    before = memory_kib()
    found = [run(kind, damage, number, tmp_path) for number in range(NUM_FAST, NUM_ALL)]
    assert memory_kib() - before < MAX_GROWTH_KIB
    if damage in (damage_storage, damage_metadata):
        assert {"read", "refused"} <= set(found)


def test_an_undamaged_bag_is_read_whole(tmp_path: Path) -> None:
    for kind, (storage, packed) in BAGS.items():
        bag = read_bag(small_bag(tmp_path / kind, storage, packed=packed))
        assert len(samples_of(bag)) == bag.counts[SAMPLE] == 6
        assert len(list(bag.messages())) == 18
        assert not bag.losses.of(bag.topics)

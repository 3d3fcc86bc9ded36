"""Our bags are read by the package `mcap`, and bags that its writer wrote by us."""

from pathlib import Path
from typing import Any

import pytest
from mcap.reader import make_reader
from mcap.writer import CompressionType, IndexType, Writer

from training.bag.read_bag import read_bag
from training.bag_import.config import BagImportConfig
from training.bag_import.one_bag import import_bag

ALL = tuple(IndexType)
WRITERS: dict[str, dict[str, Any]] = {
    **{f"chunks of {kind.name}": {"compression": kind, "chunk_size": 50_000} for kind in CompressionType},
    "without chunks": {"use_chunking": False},
    "without an index": {"index_types": IndexType.NONE},
    "without a summary": {"use_summary_offsets": False, "use_statistics": False, "repeat_channels": False,
                          "repeat_schemas": False, "index_types": IndexType.NONE},
    "without statistics": {"use_statistics": False},
}  # fmt: skip


def file_of(bag: Path) -> Path:
    return next(bag.glob("*.mcap"))


def test_our_bags_are_read_message_by_message(bags: Path) -> None:
    bag = bags / "synth-0000"
    ours = [(message.topic, message.received_ns, message.data) for message in read_bag(bag).messages()]
    with file_of(bag).open("rb") as stream:
        reader = make_reader(stream, validate_crcs=True)
        theirs = [(channel.topic, message.log_time, message.data) for _, channel, message in reader.iter_messages()]
        summary = reader.get_summary()
    assert len(ours) > 100
    assert sorted(ours) == sorted(theirs)
    assert summary is not None
    assert summary.statistics is not None
    assert summary.statistics.message_count == len(ours)
    names = {schema.name for schema in summary.schemas.values()}
    assert {"sensor_msgs/msg/CompressedImage", "vision_msgs/msg/Detection3DArray"} <= names


@pytest.mark.parametrize("options", WRITERS.values(), ids=WRITERS.keys())
def test_bags_of_their_writer_are_imported(bags: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    path = tmp_path / "theirs.mcap"
    with file_of(bags / "synth-0000").open("rb") as source, path.open("wb") as target:
        writer = Writer(target, **options)
        writer.start(profile="ros2", library="test")
        channels: dict[str, int] = {}
        for schema, channel, message in make_reader(source).iter_messages(log_time_order=True):
            if channel.topic not in channels:
                assert schema is not None
                number = writer.register_schema(schema.name, schema.encoding, schema.data)
                channels[channel.topic] = writer.register_channel(channel.topic, "cdr", number)
            writer.add_message(channels[channel.topic], message.log_time, message.data, message.publish_time)
        writer.finish()
    bag = read_bag(path)
    assert bag.counts == read_bag(bags / "synth-0000").counts
    config = BagImportConfig(bags=(), root=tmp_path / "set", progress=False)
    result = import_bag(config, (path, "theirs"))
    assert (result.error, result.skipped, result.key_frames) == ("", {}, 3)

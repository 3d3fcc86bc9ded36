"""Reading tables record by record, and building the index from them; the devkit is the reference."""

import json
import math
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nuscenes.nuscenes import NuScenes

from training.benchmark.index import ANNOTATIONS, SAMPLES, VERSION, IndexBenchConfig, run_index, write_tables
from training.data.index import reader
from training.data.index.build import build_arrays
from training.data.index.reader import Tokens, columns_of, number_of, records_of, text_of

RECORDS = [{"token": f"é{number}", "list": [1, [2, {"a": "], ["}]], "value": number} for number in range(20)]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return tmp_path / "table.json"


class TestRecords:
    @pytest.mark.parametrize("chunk", [160, 201, 2**20])
    @pytest.mark.parametrize("indent", [None, 0, 2])
    def test_records_are_those_of_json(
        self, table: Path, chunk: int, indent: int | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reader, "CHUNK", chunk)
        table.write_text(json.dumps(RECORDS, indent=indent, ensure_ascii=False), encoding="utf-8")
        assert list(records_of(table)) == RECORDS

    def test_an_empty_table(self, table: Path) -> None:
        table.write_text("[]")
        assert list(records_of(table)) == []

    @pytest.mark.parametrize("text", ["", "[", '[{"token": ', json.dumps(RECORDS)[:-1], json.dumps(RECORDS)[:-9], "x"])
    def test_a_table_that_is_cut_off(self, table: Path, text: str) -> None:
        table.write_text(text)
        with pytest.raises(ValueError, match=r"table.json is cut off or damaged"):
            list(records_of(table))

    def test_damage_in_the_middle_is_found_without_reading_on(
        self, table: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reader, "CHUNK", 500)
        table.write_text('[{"token": 1}, {"token: 2' + 100_000 * " " + "}]")
        with pytest.raises(ValueError, match="cut off or damaged"):
            list(records_of(table))

    def test_something_else_in_the_place_of_a_record(self, table: Path) -> None:
        table.write_text('[{"a": 1}, 5]')
        with pytest.raises(ValueError, match="holds 5 in the place of a record"):
            list(records_of(table))

    @pytest.mark.parametrize("block", [1, 3, 20, 64])
    def test_columns_do_not_depend_on_the_blocks(self, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(reader, "BLOCK", block)
        kinds = {
            "text": text_of("token"),
            "value": number_of("value", np.int64),
            "pair": (float, lambda record: [record["value"], 0.5]),
        }
        columns = columns_of(RECORDS, kinds)
        assert [entry.decode() for entry in columns["text"]] == [record["token"] for record in RECORDS]
        assert columns["value"].tolist() == list(range(20))
        assert columns["pair"].tolist() == [[number, 0.5] for number in range(20)]
        assert len(columns_of([], kinds)["value"]) == 0

    def test_tokens(self) -> None:
        tokens = Tokens(np.array([b"c", b"a", b"bb"]), "sample")
        assert tokens.rows(np.array([b"a", b"", b"c", b"bb", b"a"])).tolist() == [1, -1, 0, 2, 1]
        with pytest.raises(ValueError, match="sample has no record 'zz' that another table names"):
            tokens.rows(np.array([b"a", b"zz"]))
        with pytest.raises(ValueError, match="no record 'a'"):
            Tokens(np.array([], dtype=np.bytes_), "sample").rows(np.array([b"a"]))


class TestBuild:
    @staticmethod
    def change(tiny: Any, table: str, change: Any) -> None:
        path = tiny.root / tiny.version / f"{table}.json"
        records = json.loads(path.read_text())
        change(records)
        path.write_text(json.dumps(records))

    def test_velocities_are_those_of_the_devkit(self, tiny: Any) -> None:
        """Also where annotations are so far apart that the devkit does not take them."""

        def spread(samples: list[dict[str, Any]]) -> None:
            samples[2]["timestamp"] += 1_200_000

        def unlink(annotations: list[dict[str, Any]]) -> None:
            annotations[4]["prev"] = ""

        self.change(tiny, "sample", spread)
        self.change(tiny, "sample_annotation", unlink)
        arrays = build_arrays(tiny.root, tiny.version, 2)
        nusc = NuScenes(tiny.version, str(tiny.root), verbose=False)
        seen = set()
        for number, sample in enumerate(nusc.sample):
            tokens = [token for token in sample["anns"] if "rack" not in token]
            start, end = arrays["box_offsets"][number : number + 2]
            assert end - start == len(tokens)
            for row, token in zip(range(start, end), tokens, strict=True):
                speed = float(np.linalg.norm(nusc.box_velocity(token)[:2]))
                assert bool(arrays["velocity_known"][row]) is math.isfinite(speed)
                if math.isfinite(speed):
                    assert float(np.linalg.norm(arrays["boxes"][row, 7:])) == pytest.approx(speed, abs=1e-5)
                seen.add(math.isfinite(speed))
        assert seen == {True, False}

    def test_token_that_is_nowhere(self, tiny: Any) -> None:
        self.change(tiny, "sample_annotation", lambda records: records[0].update(sample_token="lost"))
        with pytest.raises(ValueError, match=r"sample has no record 'lost'.*unpack the metadata again"):
            build_arrays(tiny.root, tiny.version, 0)

    def test_record_without_a_field(self, tiny: Any) -> None:
        self.change(tiny, "sample_data", lambda records: records[3].pop("timestamp"))
        with pytest.raises(ValueError, match=r"cannot read the tables in .*KeyError: 'timestamp'"):
            build_arrays(tiny.root, tiny.version, 0)

    def test_sample_without_lidar(self, tiny: Any) -> None:
        def drop(records: list[dict[str, Any]]) -> None:
            records[:] = [record for record in records if record["token"] != "LIDAR_TOP-10.00"]

        self.change(tiny, "sample_data", drop)
        with pytest.raises(ValueError, match="sample scene-stand-0 has no LIDAR_TOP"):
            build_arrays(tiny.root, tiny.version, 0)

    def test_camera_without_intrinsics(self, tiny: Any) -> None:
        def clear(records: list[dict[str, Any]]) -> None:
            next(record for record in records if "CAM_BACK" in record["token"])["camera_intrinsic"] = []

        self.change(tiny, "calibrated_sensor", clear)
        with pytest.raises(ValueError, match=r"calibration-CAM_BACK of .* has no 3x3 camera_intrinsic"):
            build_arrays(tiny.root, tiny.version, 0)

    def test_tables_without_annotations(self, tiny: Any) -> None:
        """As in v1.0-test."""
        for table in ("sample_annotation", "instance"):
            self.change(tiny, table, lambda records: records.clear())
        arrays = build_arrays(tiny.root, tiny.version, 1)
        assert arrays["boxes"].shape == (0, 9)
        assert arrays["box_offsets"].tolist() == [0] * 6
        assert len(arrays["tokens"]) == 5

    def test_tables_without_samples(self, tiny: Any) -> None:
        for table in ("sample_annotation", "sample_data", "ego_pose", "sample"):
            self.change(tiny, table, lambda records: records.clear())
        with pytest.raises(ValueError, match="hold no sample"):
            build_arrays(tiny.root, tiny.version, 1)

    def test_memory_does_not_grow_with_what_is_not_needed(self, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Camera images between key frames and their poses are most of the tables of nuScenes."""
        monkeypatch.setattr(reader, "CHUNK", 2**16)
        folder = tiny.root / tiny.version
        data, poses = (json.loads((folder / f"{name}.json").read_text()) for name in ("sample_data", "ego_pose"))
        image = next(record for record in data if record["token"].startswith("CAM_FRONT"))

        def more() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
            for number in range(5_000):
                token = f"between-{number}".ljust(32, "0")
                yield (
                    {**image, "token": token, "ego_pose_token": token, "is_key_frame": False},
                    {**poses[0], "token": token},
                )

        peaks = [self.peak(tiny)]
        extra = list(more())
        (folder / "sample_data.json").write_text(json.dumps(data + [record for record, _ in extra]))
        (folder / "ego_pose.json").write_text(json.dumps(poses + [pose for _, pose in extra]))
        grown = (folder / "sample_data.json").stat().st_size
        del extra
        peaks.append(self.peak(tiny))
        assert grown > 1.5e6
        assert peaks[1] - peaks[0] < 0.5e6  # some chunks of text

    @staticmethod
    def peak(tiny: Any) -> int:
        """[bytes] of Python and NumPy at once."""
        tracemalloc.start()
        build_arrays(tiny.root, tiny.version, 1)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak


Records = list[dict[str, Any]]


def set_all(**values: Any) -> Callable[[Records], None]:
    """Give all records some values."""
    return lambda records: [record.update(values) for record in records] and None


def scale_stamps(factor: float) -> Callable[[Records], None]:
    return lambda records: [record.update(timestamp=record["timestamp"] * factor) for record in records] and None


NAN = float("nan")
FAULTS: dict[str, tuple[str, Callable[[Records], None], str]] = {  # table, change, what the line says
    "nanoseconds": ("sample", scale_stamps(1000), r"are 500 s apart .*look like nanoseconds: write microseconds"),
    "milliseconds": ("sample", scale_stamps(1e-3), r"are 0.0005 s apart .*look like milliseconds"),
    "seconds": ("sample", scale_stamps(1e-6), r"look like seconds|the same timestamp"),
    "zero": ("sample", set_all(timestamp=0), "all samples of a scene have the same timestamp"),
    "data of another unit": ("sample_data", scale_stamps(1000), "key frames: both timestamps must be microseconds"),
    "backwards": (
        "sample",
        lambda records: records[1].update(timestamp=2_000_000),
        r"sample scene-drive-2 is not after scene-drive-1, .*\(-1 s\)",
    ),
    "circle of samples": ("sample", lambda records: records[0].update(prev="scene-drive-2"), "without a circle"),
    "circle of sweeps": (
        "sample_data",
        lambda records: next(r for r in records if r["token"] == "LIDAR_TOP-0.00").update(prev="LIDAR_TOP-0.50"),
        "'prev' must lead back in time",
    ),
    "circle of annotations": (
        "sample_annotation",
        lambda records: records[2].update(next=records[0]["token"]),
        r"sample_annotation vehicle.car-scene-drive-2: its 'next' .* is not later",
    ),
    "no size": (
        "sample_annotation",
        lambda records: records[1].update(size=[0.0, 4.5, 1.6]),
        "scene-drive-1: size must",
    ),
    "negative size": (
        "sample_annotation",
        lambda records: records[1].update(size=[1, -4, 1]),
        "finite numbers above 0",
    ),
    "two sizes": ("sample_annotation", lambda records: records[1].update(size=[1, 4]), "size must be 3"),
    "NaN place": (
        "sample_annotation",
        lambda records: records[1].update(translation=[0, NAN, 0]),
        "translation must be 3",
    ),
    "no turn": ("sample_annotation", lambda records: records[1].update(rotation=[0, 0, 0, 0]), "must be a quaternion"),
    "negative points": (
        "sample_annotation",
        lambda records: records[1].update(num_lidar_pts=-1),
        "num_lidar_pts must be",
    ),
    "infinite pose": ("ego_pose", lambda records: records[0].update(translation=[0, 0, 1e999]), "3 finite numbers"),
    "no image size": (
        "sample_data",
        set_all(width=None, height=None),
        "has height 0 and width 0, as 9 of 9 key images",
    ),
    "no image width": ("sample_data", set_all(width=0), "write the images' sizes"),
    "3x4 intrinsics": (
        "calibrated_sensor",
        lambda records: records[1].update(camera_intrinsic=[[50, 0, 31, 0], [0, 50, 17, 0], [0, 0, 1, 0]]),
        "calibration-CAM_FRONT: camera_intrinsic must be a 3x3 matrix, but is 3x4",
    ),
    "no focal length": (
        "calibrated_sensor",
        lambda records: records[1].update(camera_intrinsic=[[0, 0, 31], [0, 50, 17], [0, 0, 1]]),
        "focal lengths above 0",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_value_that_cannot_be_right_is_named(tiny: Any, name: str) -> None:
    """In one line without advice to unpack the metadata again, which would not help."""
    table, change, words = FAULTS[name]
    TestBuild.change(tiny, table, change)
    with pytest.raises(ValueError, match=f"the tables in .* can't be right: .*{words}") as caught:
        build_arrays(tiny.root, tiny.version, 2)
    assert "unpack" not in str(caught.value)
    assert "\n" not in str(caught.value)


class TestOtherSensors:
    def test_a_lidar_of_another_name(self, tiny: Any) -> None:
        before = build_arrays(tiny.root, tiny.version, 1)
        TestBuild.change(tiny, "sensor", lambda records: records[0].update(channel="ROOF"))
        after = build_arrays(tiny.root, tiny.version, 1, "ROOF")
        assert all(np.array_equal(before[name], after[name]) for name in before)
        with pytest.raises(ValueError, match=r"has no LIDAR_TOP, .*; data.lidar names the LiDAR"):
            build_arrays(tiny.root, tiny.version, 1)

    def test_cameras_alone(self, tiny: Any) -> None:
        """The frame of reference is the ego pose of the first camera that a sample has."""

        def drop(records: Records) -> None:
            records[:] = [record for record in records if "LIDAR" not in record["token"]]

        for table in ("sensor", "calibrated_sensor", "sample_data", "ego_pose"):
            TestBuild.change(tiny, table, drop)
        TestBuild.change(tiny, "sample_annotation", lambda records: [record.pop("num_lidar_pts") for record in records])
        arrays = build_arrays(tiny.root, tiny.version, 1, "")
        assert arrays["stamps_ns"].tolist() == arrays["camera_stamps_ns"][:, 0].tolist()
        np.testing.assert_allclose(arrays["global_from_ego"][1], tiny.global_from_ego_at(0.46), atol=1e-9)
        assert len(arrays["sweep_files"]) == 0
        assert not arrays["num_lidar_points"].any()

    def test_what_is_left_out_is_counted(self, tiny: Any) -> None:
        arrays = build_arrays(tiny.root, tiny.version, 0)
        assert arrays["ignored_boxes"].tolist() == [1, 1, 1, 0, 0]
        assert arrays["ignored_categories"].tolist() == [b"static_object.bicycle_rack"]


class TestBenchmark:
    def test_generated_tables_have_the_proportions_of_nuscenes(self, tmp_path: Path) -> None:
        counts = write_tables(tmp_path / VERSION, scenes=2)
        arrays = build_arrays(tmp_path, VERSION, 9)
        assert counts["sample"] == len(arrays["tokens"]) == 2 * SAMPLES
        assert len(arrays["labels"]) == 2 * SAMPLES * ANNOTATIONS
        assert np.diff(arrays["sweep_offsets"]).tolist() == ([1] + [10] * (SAMPLES - 1)) * 2
        assert arrays["velocity_known"].all()
        assert np.linalg.norm(arrays["boxes"][:, 7:], axis=1) == pytest.approx(2.0, abs=1e-5)

    def test_the_table_tells_time_and_memory(self, tmp_path: Path) -> None:
        text = run_index(IndexBenchConfig(scenes=1, folder=tmp_path))
        assert [line.split("  ")[0] for line in text.splitlines()[1:]] == [
            "tables on disk",
            "index",
            "peak memory",
            "time",
        ]
        assert list(tmp_path.iterdir()) == []

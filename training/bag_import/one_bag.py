"""The import of one bag: its files go to the growing data set, its rows to a file beside it."""

import itertools
import json
import os
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from bevdistill_ros.core.files import write_whole
from bevdistill_ros.node.rig.calibration import Calibration
from training.bag import messages
from training.bag.damage import Damage
from training.bag.read_bag import Bag, BagError, read_bag
from training.bag_import.annotations import Categories, FoundBox, boxes_of
from training.bag_import.calibrate import calibrate, with_image_size
from training.bag_import.config import BagImportConfig
from training.bag_import.key_frames import KeyFrame, ScenePlan, plan_scenes
from training.bag_import.pixels import ImageEncoder
from training.bag_import.points import points_of
from training.bag_import.records import BagResult, FileContent, SensorFile
from training.bag_import.rows import Calibrated, SceneContent, SceneRows
from training.bag_import.scan import Scan, scan
from training.bag_import.sources import Sources, find_sources
from training.data.schema import Tables
from training.data.tables import LIDAR

_POINTS_SUFFIX = "pcd.bin"


def import_bag(config: BagImportConfig, bag: tuple[Path, str]) -> BagResult:
    """Import one bag into the growing data set `config.growing`; many processes may do so at once.

    Args:
        config: The settings.
        bag: The bag, and a name that no other bag of the data set has.

    Returns:
        What was imported; `error` says why nothing was, where the bag cannot be used or the data set not be written.
    """
    start = time.perf_counter()
    path, name = bag
    try:
        tables, result = _BagImport(config=config, bag=read_bag(path), name=name).run()
        result = replace(result, seconds=time.perf_counter() - start)
        rows = {"digest": digest_of(config, path), "result": result.to_plain(), "tables": tables}
        write_whole(rows_path(config, name), json.dumps(rows))
        return result
    except (ValueError, OSError) as error:
        unwritten = isinstance(error, OSError)
        return BagResult(bag=str(path), name=name, error=str(error), is_unwritten=unwritten)


def rows_path(config: BagImportConfig, name: str) -> Path:
    """Where the rows of a bag lie when it is imported."""
    return config.rows / f"{name}.json"


def digest_of(config: BagImportConfig, path: Path) -> str:
    """What changes whenever a bag, or a setting that decides what becomes of it, does."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    status = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return f"{config.digest()} {status}"


@dataclass(kw_only=True)
class _BagImport:
    """One import at work."""

    config: BagImportConfig
    bag: Bag
    name: str
    skipped: Counter[str] = field(default_factory=Counter)
    poses: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)  # global_from_ego, by channel and stamp
    files: dict[tuple[str, int], SensorFile] = field(default_factory=dict)
    bytes_written: int = 0

    def run(self) -> tuple[Tables, BagResult]:
        """Scan, plan, copy, and make the rows."""
        config, bag = self.config, self.bag
        sources = find_sources(config, bag)
        categories = Categories(config.classes)
        found = scan(config, bag, sources)
        sensors, calibrations = calibrate(bag, sources, found)
        plans, dropped = plan_scenes(config, sources, found, self.name)
        self.skipped += dropped + Counter(found.skipped)
        scene_of = self._choose(found, sources, plans)
        self._copy(sources, calibrations)
        plans = [kept for plan in plans if (kept := self._complete(plan, sources)) is not None]
        if not plans:
            listed = ", ".join(f"{count} x {reason}" for reason, count in self.skipped.most_common(5)) or "no images"
            raise BagError(f"{bag.path} has no complete key frame: {listed}")
        stamps = [entry.stamp_ns for plan in plans for entry in plan.key_frames]
        boxes = self._boxes(sources, stamps)
        sensors = {channel: with_image_size(sensor, calibrations, self.files) for channel, sensor in sensors.items()}
        tables: Tables = {}
        for plan in plans:
            for table, rows in self._rows(plan, sensors, found, boxes, categories, scene_of).items():
                tables.setdefault(table, []).extend(rows)
        return tables, self._result(tables, plans, found, categories)

    def _choose(self, found: Scan, sources: Sources, plans: list[ScenePlan]) -> dict[tuple[str, int], str]:
        """Scene by channel and stamp of all frames that are imported, with their poses."""
        bounds = [
            (earlier.key_frames[-1].stamp_ns + later.key_frames[0].stamp_ns) // 2
            for earlier, later in itertools.pairwise(plans)
        ]
        keys = {(name, ns) for plan in plans for entry in plan.key_frames for name, ns in entry.stamps_ns.items()}
        scene_of: dict[tuple[str, int], str] = {}
        for channel, stamps in found.stamps_ns.items() if plans else ():
            for stamp in stamps.tolist():
                if self.config.frames == "key" and (channel, stamp) not in keys:
                    continue
                plan = plans[bisect_right(bounds, stamp)]
                pose = pose_at(self.config, sources, found, stamp)
                if pose is None:
                    self.skipped[f"no pose at the stamp of {channel}"] += 1
                    continue
                self.poses[channel, stamp] = plan.global_from_fixed @ pose
                scene_of[channel, stamp] = plan.name
        return scene_of

    def _copy(self, sources: Sources, calibrations: Mapping[str, Calibration]) -> None:
        """The second pass: images and points become files."""
        encoders = {
            camera: ImageEncoder(
                calibration, image_format=self.config.image_format, jpeg_quality=self.config.jpeg_quality
            )
            for camera, calibration in calibrations.items()
        }
        channels, damage = sources.sensors(), Damage()
        for channel in channels.values():
            for folder in ("samples", "sweeps"):
                (self.config.growing / folder / channel).mkdir(parents=True, exist_ok=True)
        store = messages.standard_types()
        for message in self.bag.messages([topic for topic in channels if self.bag.counts.get(topic)]):
            key = (channels[message.topic], message.stamp_ns)
            if key not in self.poses or key in self.files:
                continue
            file = None
            with damage.counted(message.topic):
                content = store.deserialize_cdr(message.data, message.message_type)
                if key[0] == LIDAR:
                    points = points_of(content, self.config.max_intensity)
                    file = FileContent(content=points.tobytes(), suffix=_POINTS_SUFFIX, size=(0, 0))
                else:
                    file = encoders[key[0]].file_of(content, message.message_type)
            if file is not None:
                self._write(key, file)
        self.bag.note_damage(damage)
        for topic, count in damage.counts.items():
            self.skipped[f"damaged messages of {topic} ({damage.reasons[topic][:120]})"] += count

    def _write(self, key: tuple[str, int], file: FileContent) -> None:
        channel, stamp_ns = key
        path = self.config.growing / "sweeps" / channel / f"{self.name}__{channel}__{stamp_ns}.{file.suffix}"
        with open(path, "wb", buffering=0) as stream:
            written = stream.write(file.content)
        if written != len(file.content):
            raise OSError(f"cannot write {path}: only {written} of {len(file.content)} bytes; is the disk full?")
        self.bytes_written += written
        self.files[key] = SensorFile(channel=channel, stamp_ns=stamp_ns, path=path, suffix=file.suffix, size=file.size)

    def _complete(self, plan: ScenePlan, sources: Sources) -> ScenePlan | None:
        """A plan without the key frames that lack something; None where none is left."""
        kept: list[KeyFrame] = []
        needed = [LIDAR] if sources.lidar else []
        for entry in plan.key_frames:
            stamps = {channel: ns for channel, ns in entry.stamps_ns.items() if (channel, ns) in self.files}
            wanted = needed if self.config.keep_incomplete else [*needed, *sources.cameras]
            lacking = [channel for channel in wanted if channel not in stamps]
            if lacking or not any(camera in stamps for camera in sources.cameras):
                self.skipped[f"key frames without {', '.join(lacking) or 'an image'}"] += 1
            else:
                kept.append(replace(entry, stamps_ns=stamps))
        return replace(plan, key_frames=tuple(kept)) if kept else None

    def _boxes(self, sources: Sources, stamps_ns: list[int]) -> dict[int, list[FoundBox]]:
        if not sources.annotations:
            return {}
        return boxes_of(self.bag, sources.annotations, stamps_ns, int(self.config.max_offset_ms * 1e6))

    def _rows(
        self,
        plan: ScenePlan,
        sensors: Mapping[str, Calibrated],
        found: Scan,
        boxes: Mapping[int, list[FoundBox]],
        categories: Categories,
        scene_of: Mapping[tuple[str, int], str],
    ) -> Tables:
        keys = {(channel, ns) for entry in plan.key_frames for channel, ns in entry.stamps_ns.items()}
        files = sorted(
            (entry for key, entry in self.files.items() if scene_of[key] == plan.name), key=lambda file: file.stamp_ns
        )
        names = {(entry.channel, entry.stamp_ns): self._settled(entry, keys) for entry in files}
        own = [entry.stamp_ns for entry in plan.key_frames]
        content = SceneContent(
            plan=plan,
            bag_name=self.name,
            vehicle="unknown",
            sensors={channel: sensors[channel] for channel in sorted({entry.channel for entry in files})},
            files=files,
            names=names,
            poses=self.poses,
            boxes={ns: self._placed(plan, found, ns, boxes[ns]) for ns in own if ns in boxes},
        )
        sweeps = {ns: self.config.growing / file for (channel, ns), file in names.items() if channel == LIDAR}
        return SceneRows(content, categories, self.skipped, sweeps).tables()

    def _settled(self, entry: SensorFile, keys: set[tuple[str, int]]) -> str:
        """Name of a file in the data set; that of a key frame moves to the samples."""
        if (entry.channel, entry.stamp_ns) in keys:
            target = self.config.growing / "samples" / entry.channel / entry.path.name
            os.replace(entry.path, target)
        else:
            target = entry.path
        return target.relative_to(self.config.growing).as_posix()

    def _placed(
        self, plan: ScenePlan, found: Scan, stamp_ns: int, boxes: list[FoundBox]
    ) -> list[tuple[FoundBox, np.ndarray]]:
        """Boxes with their poses in the global frame."""
        origins: dict[str, np.ndarray | None] = {"": np.eye(4)}
        placed = []
        for box in boxes:
            if box.frame not in origins:
                most = int(self.config.max_pose_gap_ms * 1e6)
                origin = found.tree.lookup(found.fixed_frame, box.frame, stamp_ns, most)
                origins[box.frame] = None if origin is None else plan.global_from_fixed @ origin
            origin = origins[box.frame]
            if origin is None:
                self.skipped[f"boxes in the frame '{box.frame[:80]}', which nothing connects to the vehicle"] += 1
            else:
                placed.append((box, origin @ box.pose))
        return placed

    def _result(self, tables: Tables, plans: list[ScenePlan], found: Scan, categories: Categories) -> BagResult:
        for name, count in categories.unknown.most_common():
            self.skipped[f"boxes of the class '{name[:80]}', which is none of nuScenes (classes)"] += count
        missing = sum(self.bag.losses.missing.values())
        self.skipped["messages that the bag counts and that did not come out"] += missing
        sweeps = sum(channel == LIDAR for channel, _ in self.files)
        return BagResult(
            bag=str(self.bag.path),
            name=self.name,
            scenes=tuple(plan.name for plan in plans),
            key_frames=len(tables["sample"]),
            images=len(self.files) - sweeps,
            sweeps=sweeps,
            boxes=len(tables["sample_annotation"]),
            megabytes=sum((self.config.growing / row["filename"]).stat().st_size for row in tables["sample_data"])
            / 1e6,
            skipped={reason: count for reason, count in self.skipped.items() if count},
            notes=found.notes,
        )


def pose_at(config: BagImportConfig, sources: Sources, found: Scan, stamp_ns: int) -> np.ndarray | None:
    """fixed_from_ego (4, 4) [m] at a stamp; None where the bag does not say it."""
    if not found.fixed_frame:
        return np.eye(4)
    return found.tree.lookup(found.fixed_frame, sources.base_frame, stamp_ns, int(config.max_pose_gap_ms * 1e6))

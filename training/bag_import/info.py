"""`bevdistill bag info`: on one page what a bag holds, and what it lacks for replay, import, scoring and training."""

import json
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from bevdistill_ros.core.text import aligned, one_line
from training.bag.find_bags import find_bags, name_of
from training.bag.read_bag import Bag, read_bag
from training.bag.write_bag import SAMPLE_TOPIC
from training.bag_import.calibrate import calibrate
from training.bag_import.config import BagImportConfig
from training.bag_import.key_frames import plan_scenes
from training.bag_import.scan import Scan, scan
from training.bag_import.sources import Sources, find_sources

Use = Literal["replay", "import", "scoring", "training"]

_MAX_TYPES = 12
_MAX_WORDS = 600


@dataclass(frozen=True, kw_only=True)
class BagInfoConfig:
    """What `bevdistill bag info` looks at."""

    bags: tuple[Path, ...]  # bags, folders of bags, or text files with a path per line
    needs: tuple[Use, ...] = ("replay", "import")  # uses for which every bag must serve; else the exit status is 1
    layout: str = "auto"  # topic map: auto, a layout's name, a template with {camera}, or a YAML file
    cameras: tuple[str, ...] = ()  # names that the cameras get and their topics resemble; empty: the bag's own names
    lidar_topic: str = "auto"  # PointCloud2; auto: the only one there is, or the concatenated one; empty: none
    odometry_topic: str = ""  # nav_msgs/Odometry; empty: that of layout
    annotation_topic: str = "auto"  # boxes; auto: what is named as annotations or ground truth; empty: none
    base_frame: str = ""  # frame of the vehicle; empty: that of layout, or what the cameras sit on
    rig: Path | None = None  # YAML with calibrations and mountings of the cameras, for bags that have none
    json: bool = False  # JSON in place of the page

    def import_config(self) -> BagImportConfig:
        """The settings of an import of these bags."""
        own = ("bags", "layout", "cameras", "lidar_topic", "odometry_topic", "annotation_topic", "base_frame", "rig")
        return BagImportConfig(root=Path("unused"), progress=False, **{name: getattr(self, name) for name in own})


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a bag serves a use."""

    use: Use
    serves: bool
    words: str  # what it lacks, or what there is to know


@dataclass(frozen=True, kw_only=True)
class BagInfo:
    """What was found of a bag."""

    bag: str
    head: str  # length and size
    parts: tuple[tuple[str, str], ...]  # what is there, in words
    verdicts: tuple[Verdict, ...]

    def page(self) -> str:
        """For people."""
        words = [(entry.use, f"{'yes' if entry.serves else 'no'}: {entry.words}") for entry in self.verdicts]
        rows = [*self.parts, *words]
        table = aligned(rows, left=(0, 1)).splitlines()
        return "\n".join([f"{self.bag}: {self.head}", *(f"  {line}" for line in table)])

    def lacks(self, needs: Sequence[Use]) -> bool:
        """Whether it does not serve one of some uses."""
        return any(entry.use in needs and not entry.serves for entry in self.verdicts)


def run_bag_info(config: BagInfoConfig) -> str:
    """Show the pages; returns the closing text.

    Raises:
        ValueError: There is no bag, or one does not serve what is needed; the pages are shown before.
    """
    bags = find_bags(config.bags)
    found = []
    for path in bags:
        found.append(info_of(config.import_config(), path))
        if not config.json:
            sys.stdout.write(f"{found[-1].page()}\n")
    if config.json:
        sys.stdout.write(json.dumps([asdict(entry) for entry in found], indent=1) + "\n")
    lacking = [entry.bag for entry in found if entry.lacks(config.needs)]
    if lacking:
        raise ValueError(f"{len(lacking)} of {len(bags)} bags do not serve for {' and '.join(config.needs)}")
    return "" if config.json else f"{len(bags)} bags serve for {' and '.join(config.needs)}"


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Of the reader, as what is lost stands on the page."""
    reader = logging.getLogger("training.bag")
    before = reader.level
    reader.setLevel(logging.ERROR)
    try:
        yield
    finally:
        reader.setLevel(before)


@_without_warnings()
def info_of(config: BagImportConfig, path: Path) -> BagInfo:
    """Look at one bag; what is wrong with it becomes words."""
    try:
        bag = read_bag(path)
    except ValueError as error:
        reason = one_line(error, _MAX_WORDS)
        verdicts = tuple(Verdict(use=use, serves=False, words="it cannot be read") for use in _USES)
        return BagInfo(bag=str(path), head=reason, parts=(), verdicts=verdicts)
    head = (
        f"{(bag.end_ns - bag.start_ns) / 1e9:.1f} s, {sum(bag.counts.values())} messages on {len(bag.topics)} topics, "
        f"{_bytes_of(path) / 1e6:.1f} MB"
    )
    look = _Look(config, bag)
    parts = tuple(look.parts())
    return BagInfo(bag=str(path), head=head, parts=parts, verdicts=tuple(look.verdict(use) for use in _USES))


_USES: tuple[Use, ...] = ("replay", "import", "scoring", "training")


class _Look:
    """Does what an import does before it copies; each step that fails leaves its words."""

    def __init__(self, config: BagImportConfig, bag: Bag) -> None:
        self._config, self._bag = config, bag
        self._sources: Sources | None = None
        self._scan: Scan | None = None
        self._faults: dict[str, str] = {}
        self._key_frames, self._skipped = 0, Counter[str]()
        self._try("topics", self._find)
        self._try("motion", self._read)
        if self._scan is None and self._sources is not None:
            standing = BagImportConfig(**{**vars(config), "motion": "standing"})
            self._try("bag", lambda: self._read(standing))
        self._try("calibration", self._calibrate)
        self._try("key frames", self._plan)

    def _try(self, step: str, work: Callable[[], None]) -> None:
        try:
            work()
        except ValueError as error:
            words = str(error).replace(f"{self._bag.path}: ", "").replace(f"{self._bag.path} ", "it ")
            self._faults[step] = one_line(words, _MAX_WORDS)

    def _find(self) -> None:
        self._sources = find_sources(self._config, self._bag)

    def _read(self, config: BagImportConfig | None = None) -> None:
        if self._sources is not None:
            self._scan = scan(config or self._config, self._bag, self._sources)

    def _calibrate(self) -> None:
        if self._sources is not None and self._scan is not None:
            calibrate(self._bag, self._sources, self._scan)

    def _plan(self) -> None:
        if self._sources is not None and self._scan is not None:
            plans, self._skipped = plan_scenes(self._config, self._sources, self._scan, name_of(self._bag.path))
            self._key_frames = sum(len(plan.key_frames) for plan in plans)

    def parts(self) -> list[tuple[str, str]]:
        """What is there."""
        bag, sources, found = self._bag, self._sources, self._scan
        if sources is None or found is None:
            kinds = Counter(bag.topics.values()).most_common(_MAX_TYPES)
            return [("topics", ", ".join(f"{count} x {kind}" for kind, count in kinds))]
        lines = [("camera", self._stream(topic, channel)) for topic, channel in sources.images().items()]
        lines.append(("LiDAR", self._stream(sources.lidar, "LIDAR_TOP") if sources.lidar else "none"))
        where = f"'{sources.base_frame}' in '{found.fixed_frame}'" if found.fixed_frame else "not known"
        lines.append(("motion", where))
        boxes = f"{sources.annotations}, {bag.topics[sources.annotations]}" if sources.annotations else "none"
        lines.append(("annotations", boxes))
        lines += [("note", note) for note in found.notes]
        losses = {**found.skipped, "messages that did not come out": sum(bag.losses.missing.values())}
        losses["damaged messages"] = sum(bag.losses.damaged.values())
        lines += [("lost", f"{count} x {reason}") for reason, count in losses.items() if count]
        return lines

    def _stream(self, topic: str, channel: str) -> str:
        found = self._scan
        assert found is not None
        stamps = found.stamps_ns.get(channel, np.zeros(0, np.int64))
        seconds = float(stamps[-1] - stamps[0]) / 1e9 if len(stamps) > 1 else 0.0
        rate = f"{(len(stamps) - 1) / seconds:.1f} Hz" if seconds else "no rate"
        return f"{channel}: {topic}, {self._bag.topics[topic].rpartition('/')[2]}, {len(stamps)} at {rate}"

    def verdict(self, use: Use) -> Verdict:
        """Whether it serves a use."""
        sources = self._sources
        lacks = [self._faults[step] for step in ("topics", "bag", "calibration") if step in self._faults]
        has_boxes = sources is not None and bool(sources.annotations)
        if use == "replay":
            words = self._faults.get("motion", "").partition(";")[0].removeprefix("it ")
            standing = f"but a temporal model runs as if the vehicle stood still, as it {words}"
            return _verdict(use, lacks, standing if words else "all that a replay takes")
        lacks += [self._faults[step] for step in ("motion", "key frames") if step in self._faults and not lacks]
        if not lacks and not self._key_frames:
            reasons = ", ".join(f"{count} x {reason}" for reason, count in self._skipped.most_common(3))
            lacks.append(f"no key frame with all sensors: {reasons or 'no images'}")
        if use == "import":
            return _verdict(use, lacks, f"{self._key_frames} key frames")
        lacks = ["it cannot be imported"] if lacks else []
        if use == "scoring":
            lacks += [] if has_boxes else ["no annotations; annotation_topic names them"]
            is_named = self._bag.counts.get(SAMPLE_TOPIC, 0) > 0
            return _verdict(use, lacks, "it names its key frames" if is_named else "after an import")
        if sources is not None and not has_boxes:
            without = "neither annotations nor a LiDAR to label with"
            lacks.append("no annotations; import and label it" if sources.lidar else without)
        lidar = "with a LiDAR for distillation" if sources is not None and sources.lidar else "without a LiDAR"
        return _verdict(use, lacks, lidar)


def _verdict(use: Use, lacks: Sequence[str], words: str) -> Verdict:
    return Verdict(use=use, serves=not lacks, words="; ".join(lacks) or words)


def _bytes_of(path: Path) -> int:
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())

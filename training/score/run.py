"""`bevdistill score`: detections against a data set, whole and by distance, region and scene.

The detections are those of a results file, or of bags that a vehicle recorded of its detector.
"""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from nuscenes.nuscenes import NuScenes

from bevdistill_ros.core.files import write_whole
from training.bag.poses import PoseTrack
from training.bag.read_bag import BagError, read_bag
from training.bag.recording import Recording, read_recording
from training.bag.write_bag import BASE_FRAME
from training.data.tables import open_tables
from training.evaluate.devkit import uncollected
from training.evaluate.results import Results
from training.parallel.spread import spread
from training.score.parts import BAND_EDGES, Parts, distance_bands, regions_of
from training.score.recorded import Published, match_drives, own_results
from training.score.schema import BANDS, REGIONS, REPORT
from training.score.timing import timing_of, timing_table
from training.score.whole_report import Scope, Subject, whole_report


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """What `bevdistill score` scores."""

    root: Path  # data set with the ground truth, the folder that holds the tables
    results: Path | None = None  # results.json of evaluate or replay, or a nuScenes submission
    bags: tuple[Path, ...] = ()  # instead: bags with the detections that a vehicle or a replay recorded
    version: str = "v1.0-trainval"  # folder of the tables
    split: str = "val"
    bands: tuple[float, ...] = BAND_EDGES  # [m] edges of the distance bands
    regions: Path | None = None  # YAML, `name: [[x, y], ...]`: polygons in the global frame [m]
    scenes: bool = False  # score each scene too
    min_score: float = 0.3  # least score of a box that is counted in frames, and for flicker
    output: Path = Path("runs/score")  # folder for report.json and the official files
    markers: Path | None = None  # new bag for Foxglove or RViz: boxes found (green), wrong (orange), missed (blue)
    detections_topic: str = ""  # of bags; empty: the one with detections, of bevdistill_ros or else vision_msgs
    status_topic: str = ""  # of bags: the node's pipeline_status; empty: the one there is, if any
    odometry_topic: str = ""  # of bags; empty: the one nav_msgs/Odometry, else /tf, else the data set's poses alone
    base_frame: str = ""  # of the vehicle, for markers and for boxes of bags; empty: base_link, in bags any
    camera: str = ""  # of bags: whose images anchor the sets; empty: the one whose stamps the detections have
    published: Published = "auto"  # of bags: when outputs were there, by the node's status, by the recorder, or at once
    carry: bool = True  # of bags: boxes of late outputs go on by their velocity
    processes: int = 1  # bags that are read at once on this machine
    ray: str = ""  # address of a Ray cluster that reads them, whose machines see the same files; empty: this machine
    extra_delay_ms: tuple[float, ...] = ()  # [ms] of bags: also score as if every output had come so much later

    def __post_init__(self) -> None:
        if not 0 <= self.min_score <= 1:
            raise ValueError(f"min_score must be in 0...1, but is {self.min_score:g}")
        if (self.results is None) == (not self.bags):
            raise ValueError("give either results, a results file, or bags, what a vehicle recorded of its detector")
        if self.markers is not None and self.markers.exists():
            raise ValueError(f"{self.markers} already exists; remove it or choose another name for the markers")
        if any(delay < 0 for delay in self.extra_delay_ms):
            raise ValueError(f"extra_delay_ms must not be negative, but is {list(self.extra_delay_ms)}")


def run_score(config: ScoreConfig) -> str:
    """Score, or only count where the split has no annotations; returns the tables.

    Raises:
        ValueError: The results, a bag, the data or the regions can't be read, or the split has nothing to score.
    """
    groups: dict[str, Parts] = {BANDS: distance_bands(config.bands)}
    if config.regions is not None:
        groups[REGIONS] = regions_of(config.regions)
    scope = Scope(
        groups=groups,
        with_scenes=config.scenes,
        min_score=config.min_score,
        carry=config.carry,
        extra_delays_ms=config.extra_delay_ms,
        markers=config.markers,
        base_frame=config.base_frame or BASE_FRAME,
    )
    results = read_results(config.results) if config.results is not None else None
    nusc = open_tables(config.root, config.version)
    subject = Subject(results=results) if results is not None else _recorded(config, nusc)
    report = whole_report(nusc, subject, config.split, scope, config.output)
    path = config.output / REPORT
    write_whole(path, json.dumps(report.content, allow_nan=False))
    timing = [timing_table(subject.timing)] if subject.timing is not None else []
    drawn = [f"markers: {config.markers}"] if config.markers is not None and report.metrics is not None else []
    return "\n\n".join([*report.tables, *timing, *drawn, f"report: {path}"])


def _recorded(config: ScoreConfig, nusc: NuScenes) -> Subject:
    """What a vehicle recorded."""
    read = {}
    for outcome in spread(partial(_read_bag, config), config.bags, processes=config.processes, ray=config.ray):
        if outcome.result is None:
            raise BagError(outcome.error)
        read[outcome.item] = outcome.result
    recordings, tracks = zip(*(read[path] for path in config.bags), strict=True)
    drives = match_drives(nusc, config.split, recordings, tracks, camera=config.camera, published=config.published)
    silent = [scene for scene, outputs in drives.outputs.items() if not outputs]
    if silent:
        listed = ", ".join(silent[:5]) + (", ..." if len(silent) > 5 else "")
        raise BagError(
            f"split '{config.split}' cannot be scored: the bags have no detections of {listed}; give bags of all its "
            "scenes, or another split"
        )
    statuses = {path.name: own.statuses for path, own in zip(config.bags, recordings, strict=True)}
    results, unanswered = own_results(drives)
    counts = {"samples": len(drives.instants), "samples_unanswered": unanswered}
    timing = {**counts, **timing_of(statuses, published_ns=drives.published_ns)}
    return Subject(results=results, drives=drives, timing=timing)


def _read_bag(config: ScoreConfig, path: Path) -> tuple[Recording, PoseTrack]:
    """What a bag recorded of the detector, and how the vehicle moved."""
    recording = read_recording(
        path,
        base_frame=config.base_frame,
        detections_topic=config.detections_topic,
        status_topic=config.status_topic,
    )
    return recording, PoseTrack.of_bag(read_bag(path), config.base_frame or BASE_FRAME, config.odometry_topic)


@uncollected()
def read_results(path: Path) -> Results:
    """Read a results file; a ValueError says why it can't be."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"results {path} cannot be read: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(key), dict) for key in ("meta", "results")):
        raise ValueError(f"results {path} is not a nuScenes results file; it needs the keys meta and results")
    return content

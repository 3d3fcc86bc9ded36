"""Replay bags through the detector and score what it answers.

Live, the node runs in a process of its own, as on the vehicle; this process plays the bags to it over Fast DDS and
records. ROS is imported only when such a replay begins. Offline, the node's parts run here, without ROS.
"""

import importlib.util
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nuscenes import NuScenes
from tqdm import tqdm

from bevdistill_ros.core.lock import locked_folder
from bevdistill_ros.core.rig import VehicleRig
from bevdistill_ros.inference.bundle import load_bundle
from training.bag.by_stamp import check_covered, samples_by_stamp
from training.bag.choose_topics import choose_topics
from training.bag.poses import PoseTrack
from training.bag.read_bag import Bag, BagError, poses_of, read_bag, samples_of
from training.bag.rig import rig_of
from training.bag.write_bag import SAMPLE_TOPIC, write_bag
from training.data.index.arrays import scenes_of
from training.data.tables import open_tables, splits_of
from training.evaluate.metrics import RESULTS, Metrics
from training.evaluate.results import results_from
from training.replay.config import KeyFrames, Played, ReplayConfig, Replayed, Setup
from training.replay.playable import SUGGEST
from training.replay.playable import check_playable as _check_playable
from training.replay.process import ending_in_order
from training.replay.report import REPORT_TEXT, ReplayReport, Throughput, write_report
from training.replay.score import Scored, match_samples, merge
from training.score.parts import BAND_EDGES, distance_bands
from training.score.recorded import match_drives
from training.score.schema import BANDS
from training.score.timing import drops_of, latencies, spread_of, timing_of
from training.score.whole_report import Scope, Subject, WholeReport, whole_report

EVALUATION = "evaluation"  # folder, in that of the replay, of the devkit's files


def run_replay(config: ReplayConfig) -> ReplayReport:
    """Play every bag to the node, record, score and report.

    Returns:
        The report, which also lies in `config.output` as report.json and report.md.

    Raises:
        ModuleNotFoundError: There is no ROS 2.
        ValueError: A setting, the bundle, a bag or the data set is unusable.
        OSError: The output cannot be written.
        ConnectionError: The node does not start or does not answer at all.
    """
    if config.mode == "live":
        check_ros()
    with ending_in_order(), _output_of(config):
        return _run(config)


@contextmanager
def _output_of(config: ReplayConfig) -> Iterator[None]:
    """Hold the output folder for this process; it is removed again where nothing comes of it."""
    try:
        with locked_folder(config.output):
            if any(config.output.iterdir()):
                raise ValueError(f"{config.output} is not empty; choose a new output folder")
            yield
    finally:
        with suppress(OSError):
            config.output.rmdir()  # leaves a folder that holds something


def _run(config: ReplayConfig) -> ReplayReport:
    manifest = load_bundle(config.bundle).manifest
    nusc = open_tables(config.root, config.version) if config.root is not None else None
    bags = [read_bag(path) for path in config.bags]
    chosen = choose_topics(config.wish, bags[0] if bags else None, manifest.student.cameras, manifest.rig)
    setup = Setup(config=config, layout=chosen.topics, cameras=manifest.student.cameras)
    if setup.reference_camera not in setup.cameras:
        listed = ", ".join(setup.cameras)
        raise ValueError(f"reference_camera is '{setup.reference_camera}', but the bundle's cameras are {listed}")
    if chosen.topics.missing(setup.cameras):
        raise BagError(f"{bags[0].path}: {'; '.join(chosen.doubts)}; {SUGGEST}")
    for bag in bags:
        _check_playable(setup, bag)
    parts = [Played(bag=bag, key_frames=_key_frames(setup, bag, nusc)) for bag in bags]
    if bags and config.split and nusc is not None:
        tokens = {sample.token for part in parts for sample in part.key_frames.samples}
        check_covered(nusc, config.split, tokens, config.bags)
    scenes = _scenes(config, nusc) if nusc is not None and not bags else ()
    if nusc is not None and not bags:
        written = [read_bag(path) for path in _write_bags(setup, nusc, scenes)]
        parts = [Played(bag=bag, key_frames=_key_frames(setup, bag, nusc)) for bag in written]
    _check_scorable(setup, parts)
    replayed = _replay_all(setup, parts)
    scored = merge(
        match_samples(
            entry.recording.detections, entry.key_frames.samples, entry.key_frames.poses, setup.reference_camera
        )
        for entry in replayed
        if entry.key_frames.samples
    )
    statuses = {entry.bag.path.name: entry.recording.statuses for entry in replayed}
    trips = [trip for entry in replayed for trip in entry.round_trips_ms]
    sent = sum(entry.sets_sent for entry in replayed)
    whole = None
    timing = timing_of(statuses, trips, sets_sent=sent)
    if config.split:
        assert nusc is not None
        whole = _scored(setup, nusc, replayed, scored, timing)
    report = _report(config, replayed, scored, whole.metrics if whole else None, chosen.notes)
    extra = whole.content if whole else {"timing": timing}
    write_report(report, config.output, extra=extra, tables=whole.tables if whole else ())
    return report


def _scored(
    setup: Setup, nusc: NuScenes, replayed: Sequence[Replayed], scored: Scored, timing: Mapping[str, Any]
) -> WholeReport:
    """The report that `bevdistill score` would write of this replay."""
    config = setup.config
    recordings = [entry.recording for entry in replayed]
    drives = match_drives(
        nusc, config.split, recordings, [PoseTrack({})] * len(recordings), camera=setup.reference_camera
    )
    subject = Subject(results=results_from(scored.detections, scored.global_from_ego), drives=drives, timing=timing)
    return whole_report(
        nusc,
        subject,
        config.split,
        Scope(groups={BANDS: distance_bands(BAND_EDGES)}),
        config.output / EVALUATION,
        results_name=f"{EVALUATION}/{RESULTS}",
    )


def run_replay_command(config: ReplayConfig) -> str:
    """Replay and describe; returns the closing text."""
    run_replay(config)
    return f"{(config.output / REPORT_TEXT).read_text()}\nresults: {config.output}"


def _key_frames(setup: Setup, bag: Bag, nusc: NuScenes | None) -> KeyFrames:
    """Key frames that the bag names, or else those of the data set whose stamps its images have."""
    if bag.counts.get(SAMPLE_TOPIC):
        poses = poses_of(bag, setup.layout) if setup.layout.odometry else {}
        return KeyFrames(samples=samples_of(bag), poses=poses)
    if nusc is None or not setup.config.split:
        return KeyFrames()
    samples, global_from_ego = samples_by_stamp(
        bag,
        nusc,
        setup.config.split,
        layout=setup.layout,
        cameras=setup.cameras,
        reference_camera=setup.reference_camera,
    )
    return KeyFrames(samples=samples, poses=global_from_ego)


def _check_scorable(setup: Setup, parts: Sequence[Played]) -> None:
    """Raise ValueError, before hours of playing, for what would keep the answers from being scored."""
    merge(
        match_samples({}, part.key_frames.samples, part.key_frames.poses, setup.reference_camera)
        for part in parts
        if part.key_frames.samples
    )


def _scenes(config: ReplayConfig, nusc: NuScenes) -> tuple[str, ...]:
    """Names of the scenes to write bags of."""
    present = {scene["name"] for scene in nusc.scene}
    if config.scenes:
        missing = [scene for scene in config.scenes if scene not in present]
        if missing:
            raise ValueError(f"{config.version} has no scene {', '.join(missing)}; it has {', '.join(sorted(present))}")
        return config.scenes
    assert config.root is not None
    scenes = scenes_of(splits_of(config.root, config.version), config.split, config.root / config.version)
    return tuple(scene for scene in scenes if scene in present)


def _write_bags(setup: Setup, nusc: NuScenes, scenes: Sequence[str]) -> list[Path]:
    config = setup.config
    return [
        write_bag(
            nusc,
            scene,
            config.output / "bags" / scene,
            cameras=setup.cameras,
            storage=config.storage,
            frames=config.frames,
            progress=config.progress,
        )
        for scene in tqdm(scenes, desc="write bags", unit="bag", disable=not config.progress)
    ]


def check_ros() -> None:
    """Raise ModuleNotFoundError, with the remedy, where there is no ROS 2."""
    missing = [name for name in ("rclpy", "bevdistill_ros.msg") if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(
            f"a live replay needs ROS 2, but {', '.join(missing)} is missing: make setup, then source scripts/env.sh; "
            "or source your ROS 2 workspace; or replay with mode offline, which needs none"
        )


def _replay_all(setup: Setup, bags: Sequence[Played]) -> list[Replayed]:
    with tqdm(total=len(bags), desc="replay", unit="bag", disable=not setup.config.progress) as progress:
        if setup.config.mode == "offline":
            from training.replay.offline import replay_offline

            ordered = sorted(bags, key=lambda part: _first_stamp(setup, part.bag))
            return replay_offline(setup, ordered, progress.update)
        from training.replay.session import replay_group

        replayed: list[Replayed] = []
        for number, group in enumerate(_by_rig(setup, bags)):
            replayed += replay_group(setup, group, setup.config.output / f"node{number}", progress.update)
    return replayed


def _by_rig(setup: Setup, bags: Sequence[Played]) -> list[list[Played]]:
    """Bags that one node can be given: those of one rig, by time, so that its clock goes forward."""
    bags = sorted(bags, key=lambda part: _first_stamp(setup, part.bag))
    if not setup.needs_rig_file:
        return [list(bags)]
    groups: list[tuple[VehicleRig, list[Played]]] = []
    for part in bags:
        rig = rig_of(part.bag, setup.layout, setup.cameras, base_frame=setup.base_frame)
        same = [group for other, group in groups if torch.equal(rig.ego_from_camera, other.ego_from_camera)]
        if same:
            same[0].append(part)
        else:
            groups.append((rig, [part]))
    return [group for _, group in groups]


def _first_stamp(setup: Setup, bag: Bag) -> int:
    """Stamp of the first reference image [ns]; the recorder's clock may be another."""
    first = bag.first(setup.reference_topic)
    return first.stamp_ns if first is not None else bag.start_ns


def _report(
    config: ReplayConfig,
    replayed: Sequence[Replayed],
    scored: Scored,
    metrics: Metrics | None,
    notes: tuple[str, ...],
) -> ReplayReport:
    statuses = [status for entry in replayed for status in entry.recording.statuses]
    late_s = [late for entry in replayed for late in entry.late_s]
    lost = sum(entry.bag.losses.of(entry.bag.topics) for entry in replayed)
    return ReplayReport(
        bags=tuple(entry.bag.path.name for entry in replayed),
        bundle=config.bundle.name,
        pace=config.pace if config.mode == "live" else "offline",
        rate=config.rate,
        sets_sent=sum(entry.sets_sent for entry in replayed),
        sets_processed=sum(entry.sets_processed for entry in replayed),
        drops=drops_of(entry.recording.statuses for entry in replayed),
        messages_late_ms=float(np.percentile(late_s, 99)) * 1e3 if late_s else None,
        messages_lost=lost,
        samples=len(scored.detections),
        samples_unanswered=len(scored.unanswered),
        latency_ms=latencies(statuses, [trip for entry in replayed for trip in entry.round_trips_ms]),
        metrics=metrics,
        notes=notes,
        faults=_faults(replayed),
        throughput=_throughput(replayed) if config.mode == "offline" else None,
        spread_ms=spread_of(statuses),
    )


def _faults(replayed: Sequence[Replayed]) -> dict[str, int]:
    """What was wrong with inputs, the most frequent first."""
    found: Counter[str] = Counter()
    for entry in replayed:
        found.update(entry.faults)
    return dict(found.most_common())


def _throughput(replayed: Sequence[Replayed]) -> Throughput:
    return Throughput(
        wall_s=sum(entry.wall_s for entry in replayed), engine_s=sum(entry.engine_s for entry in replayed)
    )

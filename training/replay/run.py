"""Replay bags through the detector node and score what it answers.

The node runs in a process of its own, as on the vehicle; this process plays the bags to it over Fast DDS and records.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from nuscenes import NuScenes
from tqdm import tqdm

from training.data.tables import open_tables, splits_of
from training.evaluate.metrics import Metrics
from training.replay.config import ReplayConfig
from training.replay.layout import COMPRESSED_IMAGE, DETECTIONS_TOPIC, TopicLayout, layout_named
from training.replay.node_process import NodeProcess, transport_environment
from training.replay.play import Gate, Player, ReplayError, Wait, ros_node, stream, transform_routes
from training.replay.read_bag import Bag, BagMessage, read_bag, rig_of, samples_of
from training.replay.record import Recorder, write_recording
from training.replay.report import ReplayReport, drops_by_reason, latencies, write_report
from training.replay.score import Recording, Scored, evaluate, merge, read_recording, score_bag
from training.replay.write_bag import SAMPLE_TOPIC, write_bag


@dataclass(frozen=True, kw_only=True)
class _Replayed:
    """One bag that was played, and what came back."""

    bag: Bag
    sets_sent: int
    recording: Recording
    round_trips_ms: tuple[float, ...]
    late_s: tuple[float, ...]


def run_replay(config: ReplayConfig) -> ReplayReport:
    """Play every bag to the node, record, score and report.

    Returns:
        The report, which also lies in `config.output` as report.json and report.md.

    Raises:
        ValueError: A setting, a bag or the data set does not serve.
        ReplayError: The node does not start or does not answer at all.
    """
    if config.output.exists() and any(config.output.iterdir()):
        raise ValueError(f"{config.output} is not empty; choose a new output folder")
    layout = layout_named(config.layout)
    nusc = open_tables(config.root, config.version) if config.root is not None else None
    config.output.mkdir(parents=True, exist_ok=True)
    bags = [read_bag(path) for path in config.bags or _write_bags(config, nusc)]
    bags.sort(key=lambda bag: bag.start_ns)  # so that time goes forward for the node
    replayed = _replay_all(config, layout, bags)
    scored = merge(
        score_bag(entry.bag, entry.recording, layout=layout, reference_camera=config.reference_camera)
        for entry in replayed
        if SAMPLE_TOPIC in entry.bag.topics
    )
    metrics = None
    if config.split:
        assert nusc is not None
        metrics = evaluate(nusc, scored, config.split, config.output / "evaluation")
    report = _report(config, replayed, scored, metrics)
    write_report(report, config.output)
    return report


def _write_bags(config: ReplayConfig, nusc: NuScenes | None) -> list[Path]:
    assert nusc is not None
    assert config.root is not None
    scenes = config.scenes
    if not scenes:
        splits = splits_of(config.root, config.version)
        if config.split not in splits:
            raise ValueError(f"{config.version} has no split '{config.split}'; it has {', '.join(splits)}")
        present = {scene["name"] for scene in nusc.scene}
        scenes = tuple(scene for scene in splits[config.split] if scene in present)
    return [
        write_bag(
            nusc,
            scene,
            config.output / "bags" / scene,
            cameras=config.cameras,
            storage=config.storage,
            frames=config.frames,
            progress=config.progress,
        )
        for scene in scenes
    ]


def node_parameters(config: ReplayConfig, layout: TopicLayout, bag: Bag) -> dict[str, Any]:
    """Parameters of the node, by their full names.

    Where tf2 is not installed, the mountings go to the node in a rig file that is written beside the report. All
    detections are published, as offline evaluation scores them all.
    """
    parameters: dict[str, Any] = {
        "use_sim_time": True,
        "bundle": str(config.bundle.absolute()),
        "device": config.device,
        "precision": config.precision,
        "cameras": list(config.cameras),
        "transport": "compressed" if layout.image_type == COMPRESSED_IMAGE else "raw",
        "sync.reference_camera": config.reference_camera,
        "sync.max_spread_ms": float(config.max_spread_ms),
        "score_threshold": 0.0,
    }
    if not transform_routes() and "rig_file" not in config.parameters:
        path = config.output / "rig.yaml"
        path.write_text(yaml.safe_dump(rig_of(bag, layout, config.cameras).to_dict(), sort_keys=False))
        parameters["rig_file"] = str(path.absolute())
    return parameters | config.parameters


def _replay_all(config: ReplayConfig, layout: TopicLayout, bags: Sequence[Bag]) -> list[_Replayed]:
    os.environ.update(transport_environment())  # read when the first node of the process is made
    types = {topic: kind for bag in bags for topic, kind in bag.topics.items()}
    parameters = node_parameters(config, layout, bags[0])
    with NodeProcess(parameters, config.output) as process, ros_node("bevdistill_replay") as (node, wait):
        player = Player(node, types, {**layout.routes(config.cameras), **transform_routes()})
        process.wait_until_active(node, wait, config.start_timeout_s)
        player.wait_for_subscribers(
            wait, config.start_timeout_s, check=process.check, required=layout.routes(config.cameras)
        )
        recorder = Recorder(node)
        recorder.connect(wait, config.start_timeout_s)
        session = _Session(config, layout, player, recorder, wait, process)
        replayed: list[_Replayed] = []
        for bag in tqdm(bags, desc="replay", unit="bag", disable=not config.progress):
            if replayed:
                process.reset_memory(node, wait)
            replayed.append(session.replay(bag))
    return replayed


class _Session:
    """Plays bag after bag to one running node."""

    def __init__(
        self,
        config: ReplayConfig,
        layout: TopicLayout,
        player: Player,
        recorder: Recorder,
        wait: Wait,
        process: NodeProcess,
    ) -> None:
        self._config = config
        self._layout = layout
        self._player = player
        self._recorder = recorder
        self._wait = wait
        self._process = process
        self._reference_topic = layout.image_topic(config.reference_camera)

    def replay(self, bag: Bag) -> _Replayed:
        """Play one bag to the end, and wait for the last answers."""
        config = self._config
        samples = samples_of(bag) if config.frames == "key" else None
        topics = [topic for topic in self._player.routes if topic in bag.topics]
        messages = stream(bag, topics, self._layout, config.cameras, samples)
        self._recorder.take()
        gate = self._gate() if config.pace == "step" else None
        log = self._player.run(messages, rate=config.rate, wait=self._wait, gate=gate)
        sent = [stamp_ns for topic, stamp_ns in log.sent_at_s if topic == self._reference_topic]
        self._drain(sent)
        self._process.check()
        answers = self._recorder.take()
        if not any(answer.topic == DETECTIONS_TOPIC for answer in answers):
            raise ReplayError(
                f"the node answered none of {len(sent)} sets of {bag.path}; the end of {self._process.log_path}:\n"
                f"{self._process.log_tail()}"
            )
        path = write_recording(answers, config.output / "detections" / bag.path.name)
        trips = [
            (answer.received_at_s - log.sent_at_s[self._reference_topic, answer.stamp_ns]) * 1e3
            for answer in answers
            if answer.topic == DETECTIONS_TOPIC and (self._reference_topic, answer.stamp_ns) in log.sent_at_s
        ]
        return _Replayed(
            bag=bag,
            sets_sent=len(sent),
            recording=read_recording(path),
            round_trips_ms=tuple(trips),
            late_s=tuple(log.late_s),
        )

    def _gate(self) -> Gate:
        """Hold back a reference image until the set of the last one is answered or given up."""
        pending: int | None = None
        since = 0.0

        def gate(message: BagMessage) -> bool:
            nonlocal pending, since
            if message.topic != self._reference_topic:
                return True
            answered = pending is None or pending in self._recorder.answered_ns
            if not answered and time.perf_counter() - since < self._config.answer_timeout_s:
                return False
            pending, since = message.stamp_ns, time.perf_counter()
            return True

        return gate

    def _drain(self, sent: Sequence[int]) -> None:
        """Wait for the answers still to come, as long as some come."""
        missing = len(set(sent) - self._recorder.answered_ns)
        while missing:
            answered = len(self._recorder.answered_ns)
            if not self._player.run_on(
                self._config.answer_timeout_s,
                rate=self._config.rate,
                wait=self._wait,
                until=lambda: len(self._recorder.answered_ns) > answered,  # noqa: B023 - called within this turn
            ):
                return
            missing = len(set(sent) - self._recorder.answered_ns)


def _report(
    config: ReplayConfig, replayed: Sequence[_Replayed], scored: Scored, metrics: Metrics | None
) -> ReplayReport:
    statuses = [status for entry in replayed for status in entry.recording.statuses]
    late_s = [late for entry in replayed for late in entry.late_s]
    return ReplayReport(
        bags=tuple(entry.bag.path.name for entry in replayed),
        bundle=config.bundle.name,
        pace=config.pace,
        rate=config.rate,
        sets_sent=sum(entry.sets_sent for entry in replayed),
        sets_processed=sum(len(entry.recording.detections) for entry in replayed),
        drops=drops_by_reason(statuses),
        messages_late_ms=float(np.percentile(late_s, 99)) * 1e3,
        samples=len(scored.detections),
        samples_unanswered=len(scored.unanswered),
        latency_ms=latencies(statuses, [trip for entry in replayed for trip in entry.round_trips_ms]),
        metrics=metrics,
    )

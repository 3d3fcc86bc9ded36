"""Bags through the detector without ROS and DDS, as fast as the engine, with the same result each time.

The parts are the node's own (see `offline_node.py`). Images are read and decoded in a thread ahead of the engine.
"""

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from tqdm import tqdm

from bevdistill_ros.core.files import atomic_file
from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.core.records import Detections
from bevdistill_ros.inference.engine import Engine
from bevdistill_ros.interface import drops
from bevdistill_ros.interface.parameters import DetectorParameters, build
from bevdistill_ros.interface.topics import DETECTIONS_TOPIC, STATUS_TOPIC
from bevdistill_ros.node.build import in_model_order, make_engine
from bevdistill_ros.node.overlay import draw_overlay, encode_jpeg
from bevdistill_ros.node.pipeline import timed
from bevdistill_ros.node.records import DroppedSet, Outcome
from training.bag.answers import detections_data, status_data
from training.bag.read_bag import BagError
from training.bag.recording import Recording, SetStatus
from training.parallel.spread import spread
from training.replay.ahead import ahead
from training.replay.config import Played, Replayed, Setup
from training.replay.node_parameters import node_parameters
from training.replay.offline_node import OfflineNode, ReadySet
from training.replay.recording import WriteAnswer, recording_writer

DEPTH = 2  # sets that wait, decoded, for the engine
_NUM_BUFFERS = DEPTH + 3  # besides them one that is made, one that finds no place, and one in the engine

_LOG = logging.getLogger(__name__)


def replay_offline(setup: Setup, parts: Sequence[Played], on_done: Callable[[], object]) -> list[Replayed]:
    """Detect in the sets of each bag; several bags at once where the settings say so.

    With several at once each bag is counted for itself, else on from those before, as one node does.

    Args:
        setup: How.
        parts: The bags.
        on_done: Called after each bag.

    Raises:
        ValueError: A parameter or the bundle does not fit, or nothing could be detected in a bag.
    """
    if setup.config.processes == 1 and not setup.config.ray:
        return _replay_all(setup, parts, on_done)
    replayed: dict[int, Replayed] = {}
    todo = spread(
        partial(_replay_alone, setup), list(enumerate(parts)), processes=setup.config.processes, ray=setup.config.ray
    )
    for outcome in todo:
        number, part = outcome.item
        if outcome.result is None:
            raise BagError(f"{part.bag.path}: {outcome.error}")
        replayed[number] = outcome.result
        on_done()
    return [replayed[number] for number in sorted(replayed)]


def _replay_alone(setup: Setup, item: tuple[int, Played]) -> Replayed:
    """Detect in the sets of one bag, in a process of several; without bars, which would overwrite each other."""
    quiet = replace(setup, config=replace(setup.config, progress=False))
    return _replay_all(quiet, [item[1]], lambda: None)[0]


def _replay_all(setup: Setup, parts: Sequence[Played], on_done: Callable[[], object]) -> list[Replayed]:
    detections_data(Detections.empty(0), frame_id="", model="")  # the first message makes its type known
    engine: Engine | None = None
    counts, replayed = Counts(), []
    for part in parts:
        parameters = build(node_parameters(setup, part.bag))
        if engine is None:
            engine = make_engine(parameters)
        parameters = in_model_order(parameters, engine.manifest.student.cameras)
        replayed.append(_replay(setup, parameters, engine, part, counts))
        on_done()
    return replayed


def _replay(setup: Setup, parameters: DetectorParameters, engine: Engine, part: Played, counts: "Counts") -> Replayed:
    engine.reset()
    engine.score_threshold, engine.max_detections = parameters.score_threshold, parameters.max_detections
    name = part.bag.path.name
    node = OfflineNode(setup, parameters, engine, part, num_buffers=_NUM_BUFFERS)
    total = len(part.key_frames.samples) if setup.config.frames == "key" else part.bag.counts[setup.reference_topic]
    bar = tqdm(total=total, desc=name, unit="set", disable=not setup.config.progress, leave=False)
    started = time.perf_counter()
    with (
        recording_writer(setup.config.output / "detections" / name) as write,
        closing(ahead(node.sets(), DEPTH)) as events,
        bar,
    ):
        answers = Answers(write, parameters, f"{engine.manifest.name} {engine.manifest.version}", counts)
        for event in events:
            outcome = _detected(node, event, answers)
            if outcome is not None and setup.config.overlay:
                _draw(outcome, engine.manifest.grid, setup.config.output / "overlay" / name)
            bar.update()
        wall_s = time.perf_counter() - started
        if not answers.detections:
            raise BagError(f"nothing could be detected in {part.bag.path}: {_why(counts.drops, node.faults)}")
    return Replayed(
        bag=part.bag,
        key_frames=part.key_frames,
        sets_sent=node.sets_sent,
        sets_processed=sum(bool(status.stage_ms) for status in answers.statuses),
        recording=Recording(detections=answers.detections, statuses=tuple(answers.statuses)),
        faults=dict(node.faults),
        wall_s=wall_s,
        engine_s=answers.engine_s,
    )


def _draw(outcome: Outcome, grid: BevGrid, folder: Path) -> None:
    """Write the picture that the node would publish."""
    with atomic_file(folder / f"{outcome.detections.stamp_ns}.jpg") as file:
        file.write_bytes(encode_jpeg(draw_overlay(outcome.frame, outcome.detections, grid)))


def _detected(node: OfflineNode, event: ReadySet | DroppedSet, answers: "Answers") -> Outcome | None:
    """Detect in a set and note what came of it; None where nothing did."""
    if isinstance(event, DroppedSet):
        answers.dropped(event)
        return None
    started = time.perf_counter()
    try:
        outcome = node.pipeline.detect(event.prepared)
    except Exception as error:  # as in the node
        _LOG.warning("set at %d ns failed", event.images.stamp_ns, exc_info=True)
        answers.dropped(event.images.dropped(drops.failed(error)))
        return None
    answers.engine_s += time.perf_counter() - started
    answers.detected(event, outcome)
    return outcome


@dataclass
class Counts:
    """What became of the sets so far, over all bags."""

    processed: int = 0
    drops: Counter[str] = field(default_factory=Counter)  # by reason
    last_reason: str = ""


@dataclass
class Answers:
    """What the node would publish for a bag, written to a bag of its own.

    Args:
        write: Writes a message.
        parameters: Of the node.
        model: Name and version of the bundle.
        counts: Of this bag and those before.
    """

    write: WriteAnswer
    parameters: DetectorParameters
    model: str
    counts: Counts
    detections: dict[int, Detections] = field(default_factory=dict)  # by stamp [ns]
    statuses: list[SetStatus] = field(default_factory=list)
    engine_s: float = 0.0  # time in the engine [s]

    def detected(self, ready: ReadySet, outcome: Outcome) -> None:
        """A set with detections."""
        found, stages = outcome.detections, dict(outcome.stage_ms)
        self.detections[found.stamp_ns] = found
        self.counts.processed += 1
        with timed(stages, "publish"):
            data = detections_data(found, frame_id=self.parameters.base_frame, model=self.model)
            self.write(DETECTIONS_TOPIC, found.stamp_ns, data)
        # No time passes while a bag is read, so the latency is made of what the set waited for and the work on it.
        stamps = ready.images.stamps_ns
        oldest = min(stamp for stamp in stamps if stamp is not None)
        latency_ms = (ready.images.stamp_ns - oldest) / 1e6 + sum(stages.values())
        ages = [math.nan if stamp is None else latency_ms - (stamp - oldest) / 1e6 for stamp in stamps]
        status = SetStatus(
            stamp_ns=found.stamp_ns,
            spread_ms=ready.images.spread_ms,
            latency_ms=latency_ms,
            stage_ms=stages,
            sets_processed=self.counts.processed,
            sets_dropped=self.counts.drops.total(),
            drop_reason=self.counts.last_reason,
            age_ms=dict(zip(self.parameters.cameras, ages, strict=True)),
        )
        self._note(status)

    def dropped(self, lost: DroppedSet) -> None:
        """A set that is not used."""
        self.counts.drops[lost.reason] += 1
        self.counts.last_reason = lost.reason
        stamps = [stamp for stamp in lost.stamps_ns if stamp is not None]
        status = SetStatus(
            stamp_ns=lost.stamp_ns,
            spread_ms=(max(stamps) - min(stamps)) / 1e6 if stamps else 0.0,
            latency_ms=math.nan,
            stage_ms={},
            sets_processed=self.counts.processed,
            sets_dropped=self.counts.drops.total(),
            drop_reason=lost.reason,
            age_ms=dict.fromkeys(self.parameters.cameras, math.nan),
        )
        self._note(status)

    def _note(self, status: SetStatus) -> None:
        self.statuses.append(status)
        data = status_data(
            status.stamp_ns,
            frame_id=self.parameters.base_frame,
            age_ms=status.age_ms,
            stage_ms=status.stage_ms,
            spread_ms=status.spread_ms,
            latency_ms=status.latency_ms,
            sets_processed=status.sets_processed,
            sets_dropped=status.sets_dropped,
            drop_reason=status.drop_reason,
        )
        self.write(STATUS_TOPIC, status.stamp_ns, data)


def _why(reasons: Counter[str], faults: Counter[str]) -> str:
    """Why sets were dropped, and what was most often wrong with the inputs."""
    lost = [f"{reason} ({count} sets)" for reason, count in reasons.items()] or ["no set came together"]
    return "; ".join([*lost, *(fault for fault, _ in faults.most_common(1))])

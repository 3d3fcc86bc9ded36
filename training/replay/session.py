"""Bag after bag, played to one running node, and what it answers."""

import os
import secrets
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import yaml

from bevdistill_ros.core.files import atomic_file, write_whole
from bevdistill_ros.interface.fast_dds import transport_environment
from bevdistill_ros.interface.topic_guess import ODOMETRY
from bevdistill_ros.interface.topics import DETECTIONS_TOPIC, NODE, has_tf
from training.bag.damage import Damage
from training.bag.read_bag import Bag
from training.bag.recording import read_recording
from training.bag.rig import rig_of
from training.replay.clock import HeaderClock
from training.replay.config import KeyFrames, Played, Replayed, Setup
from training.replay.node_parameters import moves_on_tf, node_parameters
from training.replay.node_process import NodeProcess
from training.replay.order import ODOMETRY_FROM_TF, decodable, stream
from training.replay.play import Gate, Player, PlayLog, ReplayError, Wait, ros_node
from training.replay.record import Answer, Recorder
from training.replay.recording import write_recording
from training.replay.step_gate import StepGate

_AFTER_ANSWER_TIMEOUT_S = 5.0  # for what the node publishes of a set after its answer


def replay_group(setup: Setup, bags: Sequence[Played], folder: Path, on_done: Callable[[], object]) -> list[Replayed]:
    """Start a node and play bags of one rig to it.

    Args:
        setup: How.
        bags: By time.
        folder: For the node's parameters, rig and log.
        on_done: Called after each bag.

    Raises:
        ReplayError: The node does not start, ends, or answers nothing.
    """
    # The middleware reads it when the first node of the process is made.
    os.environ.update(transport_environment())
    folder.mkdir(parents=True, exist_ok=True)
    types = {topic: kind for part in bags for topic, kind in part.bag.topics.items()}
    routes = setup.layout.routes(setup.cameras)
    if not setup.layout.odometry and moves_on_tf(bags[0].bag, setup):
        routes[ODOMETRY_FROM_TF] = f"{NODE}/input/odometry"
        types[ODOMETRY_FROM_TF] = ODOMETRY
    transforms = setup.layout.transform_routes() if has_tf() else {}
    timeout_s = setup.config.start_timeout_s
    replayed: list[Replayed] = []
    parameters = {"use_sim_time": True, **_rig_file(setup, bags[0].bag, folder), **node_parameters(setup, bags[0].bag)}
    namespace = (setup.config.namespace or f"/replay_{secrets.token_hex(8)}").rstrip("/")
    process = NodeProcess(parameters, folder, namespace)
    with ros_node("bevdistill_replay") as (node, wait), ExitStack() as stack:
        if setup.config.namespace:  # any other is unique
            process.check_free(node, wait)
        stack.enter_context(process)
        process.wait_until_active(node, wait, timeout_s)
        player = Player(node, types, {**routes, **transforms}, namespace)
        player.wait_for_subscribers(wait, timeout_s, required=routes)
        recorder = Recorder(node, namespace, overlay=setup.config.overlay)
        recorder.connect(wait, timeout_s)
        process.check_alone(node)
        session = Session(setup, player, recorder, wait, process)
        for part in bags:
            if replayed:
                process.reset_memory(node, wait)
            try:
                replayed.append(session.replay(part.bag, part.key_frames))
            finally:  # of all that may have gone wrong it is the cause
                process.check_alone(node)
            on_done()
    return replayed


def _rig_file(setup: Setup, bag: Bag, folder: Path) -> dict[str, str]:
    """The parameter that names a rig file, written here; none where the node gets the mountings otherwise."""
    if not setup.needs_rig_file:
        return {}
    path = folder / "rig.yaml"
    rig = rig_of(bag, setup.layout, setup.cameras, base_frame=setup.base_frame)
    write_whole(path, yaml.safe_dump(rig.to_dict(), sort_keys=False))
    return {"rig_file": str(path.absolute())}


class Session:
    """Plays bags to a node and records its answers.

    Args:
        setup: How to play.
        player: Matched with the node.
        recorder: Connected to the node.
        wait: See `play.Wait`.
        process: The node's.
    """

    def __init__(self, setup: Setup, player: Player, recorder: Recorder, wait: Wait, process: NodeProcess) -> None:
        self._setup = setup
        self._config = setup.config
        self._player = player
        self._recorder = recorder
        self._wait_for_time = wait
        self._process = process

    def replay(self, bag: Bag, key_frames: KeyFrames) -> Replayed:
        """Play one bag to the end, wait for the last answers, and write the recording.

        Raises:
            ReplayError: The node ended, or answered nothing.
        """
        samples = key_frames.samples if self._config.frames == "key" else None
        topics = [topic for topic in self._player.routes if topic in (*bag.topics, ODOMETRY_FROM_TF)]
        layout, base_frame = self._setup.layout, self._setup.base_frame
        damage = Damage()
        ordered = stream(bag, topics, layout, self._setup.cameras, samples, base_frame=base_frame, damage=damage)
        self._recorder.take()
        gate = self._gate() if self._config.pace == "step" else None
        clock = HeaderClock(bag.first(self._setup.reference_topic), self._setup.reference_topic)
        messages = decodable(ordered, damage)
        try:
            log = self._player.run(messages, rate=self._config.rate, wait=self._wait, gate=gate, clock=clock)
        finally:
            bag.note_damage(damage)
        sent = [stamp_ns for topic, stamp_ns in log.sent_at_s if topic == self._setup.reference_topic]
        self._drain(sent)
        self._process.check()
        self._write_pictures(self._config.output / "overlay" / bag.path.name)
        answers = self._recorder.take()
        round_trips_ms = self._round_trips_ms(log, answers)
        if not round_trips_ms:
            raise ReplayError(
                f"the node answered none of {len(sent)} sets of {bag.path}; the end of {self._process.log_path}:\n"
                f"{self._process.log_tail()}"
            )
        recording = write_recording(answers, self._config.output / "detections" / bag.path.name)
        return Replayed(
            bag=bag,
            key_frames=key_frames,
            sets_sent=log.counts[self._setup.reference_topic],
            sets_processed=sum(answer.topic == DETECTIONS_TOPIC for answer in answers),
            recording=read_recording(recording, base_frame=self._setup.base_frame),
            round_trips_ms=round_trips_ms,
            late_s=tuple(log.late_s),
        )

    def _wait(self, seconds: float) -> None:
        """Let time pass, as long as the node lives."""
        self._process.check()
        self._wait_for_time(seconds)

    def _round_trips_ms(self, log: PlayLog, answers: Sequence[Answer]) -> tuple[float, ...]:
        sent_at_s = {stamp: at for (topic, stamp), at in log.sent_at_s.items() if topic == self._setup.reference_topic}
        trips_s = [
            answer.received_at_s - sent_at_s[answer.stamp_ns]
            for answer in answers
            if answer.topic == DETECTIONS_TOPIC and answer.stamp_ns in sent_at_s
        ]
        return tuple(trip_s * 1e3 for trip_s in trips_s if trip_s > 0)  # of a stamp that is sent twice, the last one's

    def _gate(self) -> Gate:
        layout, setup = self._setup.layout, self._setup
        return StepGate(
            setup.reference_topic,
            [layout.image_topic(camera) for camera in setup.cameras],
            answers=self._recorder,
            clock_ns=lambda: self._player.clock_ns,
            max_spread_ns=round(setup.max_spread_ms * 1e6),
            max_age_ns=round(setup.max_age_ms * 1e6),
            timeout_s=self._config.answer_timeout_s,
        )

    def _drain(self, sent: Sequence[int]) -> None:
        """Wait for the answers still to come, as long as some come."""
        while not all(map(self._recorder.is_settled, sent)):
            before = self._recorder.num_settled
            if not self._run_until(
                lambda before=before: self._recorder.num_settled > before,  # type: ignore[misc]
                self._config.answer_timeout_s,
            ):
                break
        # The node reports and draws after it has answered.
        self._run_until(lambda: self._recorder.answered_ns <= self._recorder.reported_ns, _AFTER_ANSWER_TIMEOUT_S)
        if self._config.overlay and self._recorder.answered_ns:
            last = max(self._recorder.answered_ns)
            self._run_until(lambda: last in self._recorder.pictures, _AFTER_ANSWER_TIMEOUT_S)

    def _run_until(self, until: Callable[[], bool], timeout_s: float) -> bool:
        """Let the clock of the bag run on; whether it came to that in time."""
        return self._player.run_on(timeout_s, rate=self._config.rate, wait=self._wait, until=until)

    def _write_pictures(self, folder: Path) -> None:
        for stamp_ns, picture in self._recorder.pictures.items():
            with atomic_file(folder / f"{stamp_ns}.jpg") as partial:
                partial.write_bytes(picture)

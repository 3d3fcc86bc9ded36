"""The checks of the doctor on a recording: what is there, how it fits, what replay and scoring will lack."""

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bevdistill_ros.core.nuscenes import NUSCENES_CAMERAS
from bevdistill_ros.doctor.checks.rig import CameraView, check_views
from bevdistill_ros.doctor.config import DoctorConfig
from bevdistill_ros.doctor.finding import Finding, fail, ok, warn
from bevdistill_ros.doctor.report import Section, has_failed, json_text, section_text, summary
from bevdistill_ros.inference.bundle import Bundle, load_bundle
from bevdistill_ros.interface.parameters import DetectorParameters
from bevdistill_ros.interface.topic_file import write_topic_map
from bevdistill_ros.interface.topics import TopicMap
from training.bag.choose_topics import Chosen, Wish, choose_topics
from training.bag.read_bag import Bag, read_bag
from training.bag.rig import camera_frame, frames_of
from training.bag.write_bag import SAMPLE_TOPIC
from training.replay.config import ReplayConfig, Setup
from training.replay.playable import check_playable

if TYPE_CHECKING:
    from bevdistill_ros.doctor.records import Recording
    from bevdistill_ros.doctor.streams import Stream
    from bevdistill_ros.node.rig.calibration import Calibration

LOOP_S = 1.0  # a recording that begins again sooner is no drive
_RECORD = "record it too (ros2 bag record), or name its topic in the topic map"


def run_bag_doctor(config: DoctorConfig, path: Path, suggest: Path | None) -> str:
    """Check a recording, write the report to standard output, and return its closing line (of JSON there is none).

    Raises:
        ValueError: A check failed; the message is the closing line. Or the recording or a setting cannot be used.
    """
    if suggest is not None and suggest.exists():
        raise ValueError(f"{suggest} exists already; remove it or choose another name")
    examination = BagExamination(config, read_bag(path))
    sections = list(examination.sections())
    closing = summary(sections)
    extra = {}
    if suggest is not None:
        write_topic_map(examination.topics, suggest, notes=examination.notes)
        closing += f"\ntopic map: {suggest}"
        extra["topic_map"] = str(suggest)
    if config.json:
        sys.stdout.write(json_text(sections, extra))
    else:
        colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        sys.stdout.write("".join(section_text(section, colour=colour) for section in sections))
    if has_failed(sections):
        raise ValueError(closing)
    return "" if config.json else closing


class BagExamination:
    """Looks at a recording.

    Args:
        config: Settings of the doctor.
        bag: The recording.

    Raises:
        ValueError: The bundle, the parameter file or the topic map cannot be used.
    """

    def __init__(self, config: DoctorConfig, bag: Bag) -> None:
        self._bag = bag
        self._bundle: Bundle | None = load_bundle(config.bundle) if config.bundle is not None else None
        parameters = _parameters_of(config)
        rig = self._bundle.manifest.rig if self._bundle else None
        wanted = config.cameras or (self._bundle.manifest.student.cameras if self._bundle else ())
        wish = Wish(
            layout=config.topics or "auto",
            image_topic=config.image_topic,
            camera_info_topic=config.camera_info_topic,
            odometry_topic=config.odometry_topic,
            base_frame=parameters.base_frame if config.params is not None else "",
        )
        self._chosen: Chosen = choose_topics(wish, bag, wanted, rig)
        self.topics: TopicMap = self._chosen.topics
        names = wanted or tuple(self.topics.cameras) or NUSCENES_CAMERAS
        self._cameras = tuple(name for name in names if not self.topics.missing([name]))
        if not wanted:
            self._complete(wish)
        self._views: list[CameraView] = []
        settings = self.topics.node_parameters()
        self._parameters = replace(parameters, **settings)  # type: ignore[arg-type]

    def _complete(self, wish: Wish) -> None:
        """The base frame and the kind of images of cameras that the recording itself names."""
        if self._cameras:
            named = choose_topics(wish, self._bag, self._cameras, None)
            self._chosen, self.topics = named, named.topics

    @property
    def notes(self) -> tuple[str, ...]:
        """Comments for the topic map."""
        open_ends = tuple(f"OPEN: {doubt}" for doubt in self._chosen.doubts)
        return (f"suggested for {self._bag.path.name}", *self._chosen.notes, *open_ends)

    def sections(self) -> Iterator[Section]:
        """The report, section by section."""
        yield Section(name="bag", findings=tuple(self._check_bag()))
        if not self._cameras:
            return
        # Needs ROS, whose code reads the messages as the node does.
        from training.replay.bag_record import record_of

        parameters = self._parameters
        recording = record_of(
            self._bag,
            self.topics,
            self._cameras,
            rectified=parameters.images_rectified,
            base_frame=parameters.base_frame,
        )
        yield Section(name="topics", findings=tuple(self._check_topics(recording)))
        yield Section(name="rig", findings=tuple(self._check_rig()))
        yield Section(name="replay", findings=tuple(self._check_replay()))

    def _check_bag(self) -> list[Finding]:
        bag, chosen = self._bag, self._chosen
        seconds = (bag.end_ns - bag.start_ns) / 1e9
        text = f"{sum(bag.counts.values())} messages on {len(bag.topics)} topics, {seconds:.1f} s"
        findings = [ok("recording", text)]
        findings += [ok("topic map", note) for note in chosen.notes]
        listed = ", ".join(f"{topic} ({kind.rsplit('/', 1)[-1]})" for topic, kind in sorted(bag.topics.items())[:30])
        remedy = "name the topics in a YAML file (--suggest FILE writes a draft), and give it with --topics"
        findings += [fail("topic map", f"{doubt}; the recording has {listed}", remedy) for doubt in chosen.doubts]
        return findings

    def _check_topics(self, recording: "Recording") -> list[Finding]:
        from bevdistill_ros.doctor.checks.calibration import (
            check_camera_infos,
            check_odometry,
            check_tf_mountings,
            views_of_cameras,
        )
        from bevdistill_ros.doctor.checks.images import Expectation, check_images

        parameters = self._parameters
        expectation = Expectation(
            transport=parameters.transport,
            max_spread_ms=parameters.sync.max_spread_ms,
            runs=False,
            names="; ".join(self._chosen.notes) or "as you said",
        )
        findings = [finding for finding in check_images(recording, expectation) if finding.subject != "clock"]
        findings.append(self._check_clock())
        findings += self._check_loops(recording)
        infos, calibrations = check_camera_infos(recording)
        frames = self._frames(calibrations)
        mountings, poses = check_tf_mountings(
            {camera: self._mounting(frame) for camera, frame in frames.items()},
            frames,
            base_frame=parameters.base_frame,
        )
        self._views = views_of_cameras(calibrations, poses)
        findings += infos + mountings
        if self.topics.odometry:
            findings.append(
                check_odometry(recording.odometry, self._reference_images(recording), parameters.ego_motion)
            )
        else:
            findings.append(self._check_motion())
        return [_of_a_recording(finding) for finding in findings]

    def _reference_images(self, recording: "Recording") -> "Stream":
        """Images of the camera that anchors the sets, or else of the first."""
        wanted = self._parameters.sync.reference_camera
        return recording.images[wanted if wanted in recording.images else self._cameras[0]].stream

    def _check_rig(self) -> list[Finding]:
        from bevdistill_ros.doctor.checks.training_rig import check_against_training

        if not self._views:
            return [warn("rig", "no camera has both a calibration and a mounting", "record camera_info and /tf_static")]
        findings = check_views(self._views)
        if self._bundle is not None:
            manifest, tolerance = self._bundle.manifest, self._parameters.diagnostics.focal_tolerance
            findings += check_against_training(
                self._views, manifest.rig, manifest.student.images, focal_tolerance=tolerance
            )
        return findings

    def _check_replay(self) -> list[Finding]:
        """What replay and scoring will lack."""
        bag = self._bag
        config = ReplayConfig(bundle=Path(), output=Path(), bags=(bag.path,), frames="all")
        cameras = self._bundle.manifest.student.cameras if self._bundle else self._cameras
        try:
            check_playable(Setup(config=config, layout=self.topics, cameras=cameras), bag)
            findings = [ok("replay", f"can be played, with the images of {', '.join(cameras)}")]
        except ValueError as error:
            findings = [fail("replay", str(error))]
        if self._bundle is None:
            findings.append(warn("model", "no bundle is given to compare the cameras with", "give --bundle FOLDER"))
        if bag.counts.get(SAMPLE_TOPIC):
            findings.append(ok("scoring", f"{bag.counts[SAMPLE_TOPIC]} key frames on {SAMPLE_TOPIC}"))
        else:
            text = f"no {SAMPLE_TOPIC}: play it with frames: all; scores need its data set (root, version, split)"
            findings.append(warn("scoring", text, "key frames are found by the stamps of the data set's images"))
        return findings

    def _check_clock(self) -> Finding:
        """How the recorder's clock lies to that of the headers."""
        first = self._bag.first(self.topics.image_topic(self._cameras[0]))
        offset_s = (first.received_ns - first.stamp_ns) / 1e9 if first is not None else 0.0
        if abs(offset_s) > 10.0:
            text = f"headers and recorder have different clocks, {offset_s:.0f} s apart (simulated time?)"
            return ok("clock", f"{text}; replay follows the headers")
        return ok(
            "clock",
            f"headers and recorder have the same clock; the first image was recorded {offset_s * 1e3:.0f} ms late",
        )

    def _check_loops(self, recording: "Recording") -> list[Finding]:
        """Whether the stamps begin again, as in the recording of a looped playback."""
        stream = next((record.stream for record in recording.images.values() if record.stream.goes_back), None)
        if stream is None:
            return []
        stamps = np.array(stream.stamps_ns)
        returns = np.flatnonzero(np.diff(stamps) < 0)
        length_s = float(np.ptp(stamps)) / 1e9
        text = f"stamps go back {len(returns)} times: a playback in a loop of {length_s:.1f} s was recorded"
        if length_s < LOOP_S:
            return [fail("loop", f"{text}, too short to drive on", "record a longer drive, once")]
        return [warn("loop", f"{text}; the memory is emptied each time", "record it once")]

    def _check_motion(self) -> Finding:
        """Ego motion of a recording without odometry."""
        if self._parameters.base_frame in frames_of(self._bag, self.topics).moving:
            return ok("odometry", f"none; the motion of {self._parameters.base_frame} is taken from {self.topics.tf}")
        text = "none, and nothing moves on tf: a temporal model is run as if the vehicle stood still"
        return warn("odometry", text, _RECORD)

    def _frames(self, calibrations: "dict[str, Calibration]") -> dict[str, str]:
        return {camera: camera_frame(self._bag, self.topics, camera) for camera in calibrations}

    def _mounting(self, frame: str) -> np.ndarray | str:
        base_frame = self._parameters.base_frame
        frames = frames_of(self._bag, self.topics)
        found = frames.transform(frame, base_frame)
        if found is not None:
            return found
        other = frames.base_frame([frame])
        hint = f"; they connect it to '{other}', set base_frame" if other else ""
        return f"the transforms do not connect '{frame}' to '{base_frame}'{hint}"


def _parameters_of(config: DoctorConfig) -> DetectorParameters:
    from bevdistill_ros.doctor.live.parameters import parameters_of_file

    return parameters_of_file(config.params) if config.params is not None else DetectorParameters()


def _of_a_recording(finding: Finding) -> Finding:
    """A finding of the live checks, in words that fit a recording."""
    if "nobody publishes" in finding.message:
        message = finding.message.replace("nobody publishes ", "the recording lacks ")
        return replace(finding, message=message, remedy=_RECORD)
    return finding

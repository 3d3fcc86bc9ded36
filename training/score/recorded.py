"""What a vehicle recorded of its detector beside the key frames of a data set.

A set's stamp is the stamp of its reference image, so a key frame's own output is the one whose stamp is that of the
key frame's image of the same camera. Boxes are in the ego frame at the stamp of their set, and go to the global frame
by the ego pose at that stamp.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from nuscenes.nuscenes import NuScenes

from bevdistill_ros.core.geometry import transform_from
from bevdistill_ros.core.records import Detections
from training.bag.poses import PoseTrack, VehiclePoses
from training.bag.read_bag import BagError
from training.bag.recording import Recording, SetStatus
from training.evaluate.metrics import split_tokens
from training.evaluate.results import Results, results_from

TOLERANCE_NS = 1_000_000  # writers that pass stamps through float seconds are off by less
LEAD_NS = 5_000_000_000  # outputs before a scene's first key frame that may still be the newest one
_NANOSECONDS_PER_MICROSECOND = 1000

Published = Literal["auto", "status", "received", "stamp"]
"""Where times of publication come from; see `publication_times`."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """One published set of detections."""

    detections: Detections  # in the ego frame at their stamp
    published_ns: int
    global_from_ego: np.ndarray  # (4, 4) float64 [m] at the stamp of the detections

    @property
    def stamp_ns(self) -> int:
        """Stamp of the set."""
        return self.detections.stamp_ns


@dataclass(frozen=True, kw_only=True)
class Instant:
    """A key frame."""

    token: str
    scene: str
    stamp_ns: int  # of its image of the reference camera
    global_from_ego: np.ndarray  # (4, 4) float64 [m] at that stamp


@dataclass(frozen=True, kw_only=True)
class RecordedDrives:
    """Key frames of a split, and all that was published on the way."""

    camera: str  # whose images anchor the sets
    instants: tuple[Instant, ...]
    outputs: Mapping[str, tuple[Output, ...]]  # by scene, by stamp
    published_ns: Mapping[int, int]  # when the detections of each stamp were published
    published: str  # what the times of publication are taken from, in words


def own_results(drives: RecordedDrives) -> tuple[Results, int]:
    """What the ordinary score takes: each key frame's own output; and how many key frames have none."""
    own: dict[str, Detections] = {}
    poses: dict[str, torch.Tensor] = {}
    unanswered = 0
    for instant in drives.instants:
        output = nearest_output(drives.outputs.get(instant.scene, ()), instant.stamp_ns)
        unanswered += output is None
        own[instant.token] = Detections.empty(instant.stamp_ns) if output is None else output.detections
        pose = instant.global_from_ego if output is None else output.global_from_ego
        poses[instant.token] = torch.from_numpy(pose)
    return results_from(own, poses), unanswered


def nearest_output(outputs: Sequence[Output], stamp_ns: int) -> Output | None:
    """The output of a stamp; None where there is none."""
    best = min(outputs, key=lambda output: abs(output.stamp_ns - stamp_ns), default=None)
    return best if best is not None and abs(best.stamp_ns - stamp_ns) <= TOLERANCE_NS else None


def match_drives(
    nusc: NuScenes,
    split: str,
    recordings: Sequence[Recording],
    tracks: Sequence[PoseTrack],
    *,
    camera: str = "",
    published: Published = "auto",
) -> RecordedDrives:
    """Put recordings beside the key frames of a split.

    Args:
        nusc: The data set.
        split: Its split.
        recordings: Of the vehicle.
        tracks: Where each recording has the vehicle; used where the data set's poses are far apart.
        camera: The camera whose images anchor the sets; empty: the one whose stamps the detections have.
        published: Where times of publication come from; see `publication_times`.

    Raises:
        BagError: No detection has the stamp of a key frame, or there are no times of publication.
    """
    samples = [nusc.get("sample", token) for token in split_tokens(nusc, split)]
    stamps = np.unique([stamp for recording in recordings for stamp in recording.detections])
    camera = camera or _anchor_of(nusc, samples, stamps)
    lacking = [sample["token"] for sample in samples if camera not in sample["data"]]
    if lacking:
        raise BagError(f"sample {lacking[0]} has no {camera}; name the camera that anchors the sets (camera)")
    instants = [_instant(nusc, sample, camera) for sample in samples]
    times, source = publication_times(recordings, camera, published)
    known = _known_poses(nusc, {sample["token"]: sample["scene_token"] for sample in samples})
    outputs = {}
    for scene in dict.fromkeys(instant.scene for instant in instants):
        own = [instant for instant in instants if instant.scene == scene]
        outputs[scene] = tuple(_outputs(recordings, tracks, times, PoseTrack(known[scene]), own))
    return RecordedDrives(
        camera=camera, instants=tuple(instants), outputs=outputs, published_ns=times, published=source
    )


def publication_times(recordings: Sequence[Recording], camera: str, source: Published) -> tuple[dict[int, int], str]:
    """When the detections of each stamp were published [ns].

    Args:
        recordings: Of the vehicle.
        camera: The camera whose images anchor the sets.
        source: status: the latency that the node measured; received: when the recorder got them; stamp: at once, as if
            the work took no time; auto: by status where there is any, else received where it is known.

    Returns:
        Times by stamp, and the source that was taken.

    Raises:
        BagError: The source is not there.
    """
    by_status = {
        status.stamp_ns: status.stamp_ns + round(_age_ms(status, camera) * 1e6)
        for recording in recordings
        for status in recording.statuses
        if np.isfinite(status.latency_ms)
    }
    stamps = [stamp for recording in recordings for stamp in recording.detections]
    if source == "stamp":
        return {stamp: stamp for stamp in stamps}, source
    if source == "status" or (source == "auto" and by_status):
        if not by_status:
            raise BagError("the recordings have no status with a latency; record the node's pipeline_status too")
        usual_ns = round(float(np.median([time - stamp for stamp, time in by_status.items()])))
        return {stamp: by_status.get(stamp, stamp + usual_ns) for stamp in stamps}, "status"
    received = {stamp: time for recording in recordings for stamp, time in recording.received_ns.items()}
    if source == "auto" and not set(stamps) <= set(received):
        return {stamp: stamp for stamp in stamps}, "stamp"
    delays = np.array([received[stamp] - stamp for stamp in stamps])
    if (delays < 0).any() or np.median(delays) > LEAD_NS:
        raise BagError(
            f"the recorder's clock is not that of the stamps: detections came {np.median(delays) / 1e9:.3f} s after "
            "theirs; record the node's pipeline_status, or set published to stamp"
        )
    return received, "received"


def _age_ms(status: SetStatus, camera: str) -> float:
    """Stamp of the set to publication [ms]; from the oldest image where the camera is not known by this name."""
    age = status.age_ms.get(camera, float("nan"))
    return age if np.isfinite(age) else status.latency_ms


def _anchor_of(nusc: NuScenes, samples: Iterable[Mapping[str, Any]], stamps: np.ndarray) -> str:
    """The sensor whose key frames have the stamps of detections, which rise."""
    hits: Counter[str] = Counter()
    for sample in samples:
        for channel, token in sample["data"].items():
            stamp = int(nusc.get("sample_data", token)["timestamp"]) * _NANOSECONDS_PER_MICROSECOND
            place = np.searchsorted(stamps, stamp - TOLERANCE_NS)
            hits[channel] += int(place < len(stamps) and stamps[place] <= stamp + TOLERANCE_NS)
    best = max(hits, key=lambda channel: (hits[channel], channel == "CAM_FRONT", channel.startswith("CAM")), default="")
    if not best or not hits[best]:
        raise BagError(
            f"no detection has the stamp of a key frame of {nusc.version}: is it the data set of this drive, with the "
            "stamps of its images?"
        )
    return best


def _instant(nusc: NuScenes, sample: Mapping[str, Any], camera: str) -> Instant:
    record = nusc.get("sample_data", sample["data"][camera])
    pose = nusc.get("ego_pose", record["ego_pose_token"])
    return Instant(
        token=sample["token"],
        scene=nusc.get("scene", sample["scene_token"])["name"],
        stamp_ns=int(record["timestamp"]) * _NANOSECONDS_PER_MICROSECOND,
        global_from_ego=transform_from(pose["rotation"], pose["translation"]),
    )


def _known_poses(nusc: NuScenes, scenes: Mapping[str, str]) -> dict[str, dict[int, np.ndarray]]:
    """global_from_ego (4, 4) [m] by stamp [ns] by name of the scene: those of all its sensors' data.

    Args:
        nusc: The data set.
        scenes: Token of the scene by sample.
    """
    found: dict[str, dict[int, np.ndarray]] = {}
    for record in nusc.sample_data:
        if record["sample_token"] not in scenes:
            continue
        pose = nusc.get("ego_pose", record["ego_pose_token"])
        scene = nusc.get("scene", scenes[record["sample_token"]])["name"]
        stamp_ns = int(record["timestamp"]) * _NANOSECONDS_PER_MICROSECOND
        found.setdefault(scene, {})[stamp_ns] = transform_from(pose["rotation"], pose["translation"])
    return found


def _outputs(
    recordings: Sequence[Recording],
    tracks: Sequence[PoseTrack],
    times: Mapping[int, int],
    known: PoseTrack,
    instants: Sequence[Instant],
) -> list[Output]:
    """Outputs around the key frames of a scene, by stamp; those without a pose are of no use."""
    first = min(instant.stamp_ns for instant in instants) - LEAD_NS
    last = max(instant.stamp_ns for instant in instants) + TOLERANCE_NS
    found = {}
    for recording, track in zip(recordings, tracks, strict=True):
        poses = VehiclePoses(known, track)
        for stamp_ns, detections in recording.detections.items():
            pose = poses.at(stamp_ns) if first <= stamp_ns <= last else None
            if pose is not None:
                found[stamp_ns] = Output(detections=detections, published_ns=times[stamp_ns], global_from_ego=pose)
    return [found[stamp] for stamp in sorted(found)]

"""One drive through a scene: sensor files on disk, and the facts for their table rows."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from training.synth.config import KEY_FRAME_RATE, SynthConfig
from training.synth.lidar import LidarModel, Sweep, scan
from training.synth.rays import RayCaster, Surfaces
from training.synth.render import Picture, take_picture
from training.synth.rig import LIDAR_NAME, Camera
from training.synth.shading import noise_table
from training.synth.world import World, make_world, moving, resting

EPOCH_US = 1_600_000_000_000_000  # [us] first key frame of the first scene
SCENE_SPACING_US = 3_600_000_000  # [us] from scene to scene
_LEAD_SWEEPS_US = 400_000  # [us] of sweeps before the first key frame
_REACH = 90.0  # [m] moving actors further off are not drawn
_NEAR = 0.2  # [m] in front of a camera that is ignored
# Where a triangle is probed: barycentric weights of the middles of its four congruent parts.
_PROBES = np.array([[2, 2, 2], [4, 1, 1], [1, 4, 1], [1, 1, 4]]) / 6.0


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One file of one sensor."""

    channel: str
    file: str  # relative to the data set
    stamp_us: int
    key_frame: int  # number of the key frame that it belongs to
    is_key_frame: bool
    global_from_ego: np.ndarray  # (4, 4)
    size: tuple[int, int]  # height, width [px]; 0, 0 for LiDAR


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """One actor in one key frame."""

    actor: int  # index in the world
    key_frame: int
    centre: tuple[float, float, float]  # [m] global
    yaw: float  # [rad] global
    size: tuple[float, float, float]  # length, width, height [m]
    category: str
    attribute: str  # empty for none
    num_lidar_points: int
    visible_share: float  # of the pixels that would show it without occlusion; 0...1


@dataclass(frozen=True, kw_only=True)
class SceneRecord:
    """All of a scene except its files."""

    index: int
    key_stamps_us: tuple[int, ...]
    recordings: tuple[Recording, ...]  # by stamp
    annotations: tuple[Annotation, ...]


@dataclass(kw_only=True)
class _Counts:
    """What the sensors saw of each actor in a key frame."""

    points: dict[int, int] = field(default_factory=dict)
    visible: dict[int, float] = field(default_factory=dict)  # share of the view that shows it
    probed: dict[int, float] = field(default_factory=dict)  # and that would without occlusion


class SceneRecorder:
    """Draws a scene's world and drives through it.

    Args:
        config: Of the data set.
        index: Of the scene; with the seed it fixes everything.
        root: Folder that receives the files.
    """

    def __init__(self, config: SynthConfig, index: int, root: Path) -> None:
        self._config, self._index, self._root = config, index, root
        rng = np.random.default_rng((config.seed, index))
        self._world: World = make_world(rng, duration=config.duration)
        self._noise = noise_table(rng)
        self._resting = Surfaces(resting(self._world))
        self._cameras = config.cameras()
        self._lidar = LidarModel(
            columns=config.lidar_columns,
            max_range=config.lidar_range,
            noise=config.lidar_noise,
            dropout=config.lidar_dropout,
        )
        self._start_us = EPOCH_US + index * SCENE_SPACING_US

    def record(self) -> SceneRecord:
        """Write all files of the scene."""
        counts = [_Counts() for _ in range(self._config.frames_per_scene)]
        recordings = [*self._lidar_recordings(counts), *self._camera_recordings(counts)]
        period = 1_000_000 // KEY_FRAME_RATE
        return SceneRecord(
            index=self._index,
            key_stamps_us=tuple(self._start_us + number * period for number in range(len(counts))),
            recordings=tuple(sorted(recordings, key=lambda entry: (entry.stamp_us, entry.channel))),
            annotations=tuple(self._annotations(counts)),
        )

    def _ticks(self, rate_hz: int, lead_us: int = 0) -> Iterator[tuple[int, int, bool]]:
        """Times after the first key frame [us], the key frame that each leads up to, and whether it is one."""
        period = 1_000_000 // rate_hz
        key_period = 1_000_000 // KEY_FRAME_RATE
        last = (self._config.frames_per_scene - 1) * key_period
        for time in range(-(lead_us // period) * period, last + 1, period):
            yield time, max(0, -(-time // key_period)), time >= 0 and time % key_period == 0

    def _lidar_recordings(self, counts: list[_Counts]) -> Iterator[Recording]:
        lead = _LEAD_SWEEPS_US if self._config.lidar_rate_hz > KEY_FRAME_RATE else 0
        for time_us, key_frame, is_key in self._ticks(self._config.lidar_rate_hz, lead):
            caster, pose = self._view(time_us)
            sweep = scan(caster, pose, self._lidar, self._rng(time_us, 0))
            if is_key:
                counts[key_frame].points = _points_of_actors(sweep)
            recording = self._recording(LIDAR_NAME, "pcd.bin", time_us, key_frame, is_key, pose, (0, 0))
            sweep.points.astype("<f4").tofile(self._root / recording.file)
            yield recording

    def _camera_recordings(self, counts: list[_Counts]) -> Iterator[Recording]:
        for time_us, key_frame, is_key in self._ticks(self._config.camera_rate_hz):
            for number, camera in enumerate(self._cameras):
                shot_us = time_us + camera.delay_us
                caster, pose = self._view(shot_us)
                picture = take_picture(
                    caster,
                    camera,
                    pose,
                    light=self._world.light,
                    section=self._world.road.section,
                    noise=self._noise,
                    rng=self._rng(shot_us, 1 + number),
                )
                if is_key:
                    self._count_visible(counts[key_frame], picture, camera, pose, shot_us)
                size = (camera.height, camera.width)
                recording = self._recording(camera.name, "jpg", shot_us, key_frame, is_key, pose, size)
                self._write_image(picture, recording.file)
                yield recording

    def _view(self, time_us: int) -> tuple[RayCaster, np.ndarray]:
        time = time_us * 1e-6
        return RayCaster(self._resting, Surfaces(moving(self._world, time, _REACH))), self._world.ego_pose(time)

    def _recording(
        self,
        channel: str,
        ending: str,
        time_us: int,
        key_frame: int,
        is_key: bool,
        pose: np.ndarray,
        size: tuple[int, int],
    ) -> Recording:
        stamp = self._start_us + time_us
        folder = "samples" if is_key else "sweeps"
        return Recording(
            channel=channel,
            file=f"{folder}/{channel}/synth-{self._index:04d}__{channel}__{stamp}.{ending}",
            stamp_us=stamp,
            key_frame=key_frame,
            is_key_frame=is_key,
            global_from_ego=pose,
            size=size,
        )

    def _write_image(self, picture: Picture, file: str) -> None:
        quality = [cv2.IMWRITE_JPEG_QUALITY, self._config.jpeg_quality]
        done, content = cv2.imencode(".jpg", picture.pixels[..., ::-1], quality)
        assert done, "OpenCV has no JPEG encoder"
        (self._root / file).write_bytes(content.tobytes())

    def _rng(self, time_us: int, sensor: int) -> np.random.Generator:
        return np.random.default_rng((self._config.seed, self._index, sensor, time_us + _LEAD_SWEEPS_US))

    def _count_visible(self, counts: _Counts, picture: Picture, camera: Camera, pose: np.ndarray, time_us: int) -> None:
        """Probe points all over each actor: does the image show the actor there, or something in front of it?"""
        camera_from_global = _inverse(pose @ camera.ego_from_camera)
        near = self._world.near(time_us * 1e-6, self._config.annotation_range + 10.0)
        for actor, actor_pose in zip(near, self._world.actor_poses(near, time_us * 1e-6), strict=True):
            camera_from_actor = camera_from_global @ actor_pose
            radius = float(np.linalg.norm(self._world.actors[actor].size)) / 2
            if not _may_show(camera, camera_from_actor[:3, 3], radius):
                continue
            points, weights = _probe_points(self._world.actors[actor].mesh.triangles, camera_from_actor)
            pixels = points @ camera.intrinsics.T
            pixels = np.rint(pixels[:, :2] / pixels[:, 2:]).astype(np.int64)
            inside = ((pixels >= 0) & (pixels < [camera.width, camera.height])).all(axis=1)
            seen = picture.owners[pixels[inside, 1], pixels[inside, 0]] == actor + 1
            counts.probed[actor] = counts.probed.get(actor, 0.0) + float(weights[inside].sum())
            counts.visible[actor] = counts.visible.get(actor, 0.0) + float(weights[inside][seen].sum())

    def _annotations(self, counts: list[_Counts]) -> Iterator[Annotation]:
        for key_frame, seen in enumerate(counts):
            time = key_frame / KEY_FRAME_RATE
            ego = self._world.ego_pose(time)[:2, 3]
            near = self._world.near(time, self._config.annotation_range + 10.0)
            for index, pose in zip(near, self._world.actor_poses(near, time), strict=True):
                points, visible = seen.points.get(index, 0), seen.visible.get(index, 0)
                if np.linalg.norm(pose[:2, 3] - ego) > self._config.annotation_range or not (points or visible):
                    continue
                actor = self._world.actors[index]
                yield Annotation(
                    actor=index,
                    key_frame=key_frame,
                    centre=(float(pose[0, 3]), float(pose[1, 3]), float(pose[2, 3])),
                    yaw=float(np.arctan2(pose[1, 0], pose[0, 0])),
                    size=(float(actor.size[0]), float(actor.size[1]), float(actor.size[2])),
                    category=actor.kind.category,
                    attribute=actor.attribute(time),
                    num_lidar_points=points,
                    visible_share=visible / max(seen.probed.get(index, 0.0), 1e-9),
                )


def _may_show(camera: Camera, centre: np.ndarray, radius: float) -> bool:
    """Whether a ball about `centre` (3,) [m], camera frame, reaches into what the camera sees."""
    (across, down), (left, top) = camera.intrinsics.diagonal()[:2], camera.intrinsics[:2, 2] + 0.5
    right, bottom = camera.width - left, camera.height - top
    inward = np.array([[across, 0, left], [-across, 0, right], [0, down, top], [0, -down, bottom], [0, 0, 1.0]])
    return bool((inward @ centre >= -radius * np.linalg.norm(inward, axis=1)).all())


def _probe_points(triangles: np.ndarray, camera_from_actor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points all over the triangles (F, 3, 3) of an actor.

    Returns:
        Points (P, 3) [m] in the camera frame, in front of it, and the solid angle (P,) that each stands for.
    """
    corners = triangles @ camera_from_actor[:3, :3].T + camera_from_actor[:3, 3]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]) / (2 * len(_PROBES))
    points = np.einsum("pk,fkc->fpc", _PROBES, corners)
    distances = np.linalg.norm(points, axis=2)
    # The far side counts too: where the near side shows there, it is the same actor.
    weights = np.abs(np.einsum("fpc,fc->fp", points, normals)) / np.maximum(distances, _NEAR) ** 3
    kept = points[..., 2] > _NEAR
    return points[kept], weights[kept]


def _inverse(transform: np.ndarray) -> np.ndarray:
    """Inverse of a rigid transform (4, 4)."""
    inverse = np.eye(4)
    inverse[:3, :3] = transform[:3, :3].T
    inverse[:3, 3] = -transform[:3, :3].T @ transform[:3, 3]
    return inverse


def _points_of_actors(sweep: Sweep) -> dict[int, int]:
    """Number of points on each actor, by its index."""
    owners, counts = np.unique(sweep.owners, return_counts=True)
    return {int(owner) - 1: int(count) for owner, count in zip(owners, counts, strict=True) if owner > 0}

"""A tiny database in nuScenes format whose numbers can be worked out by hand.

`scene-drive`: three samples at 0, 0.5 and 1 s, LiDAR every 0.1 s, the vehicle drives a curve at 10 m/s.
`scene-stand`: one sample at 10 s, the vehicle stands.
`scene-empty`: one sample at 20 s without annotations.

CAM_FRONT fires 40 ms before the LiDAR stamp, CAM_BACK 30 ms after it; CAM_BACK is absent in the last sample of
`scene-drive`.
"""

import json
import math
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

CALIBRATION: dict[str, tuple[list[float], list[float]]] = {  # quaternion w x y z, translation
    "LIDAR_TOP": ([math.sqrt(0.5), 0.0, 0.0, -math.sqrt(0.5)], [1.0, 0.0, 1.8]),
    "CAM_FRONT": ([0.5, -0.5, 0.5, -0.5], [1.7, 0.1, 1.5]),
    "CAM_BACK": ([0.5, -0.5, -0.5, 0.5], [0.0, -0.1, 1.6]),
}
LANDMARKS = np.array([[120.0, 60.0, 3.0], [110.0, 40.0, 0.5], [90.0, 70.0, 2.0], [130.0, 52.0, 1.0]])  # global [m]
COLOURS = {"CAM_FRONT": (200, 40, 20), "CAM_BACK": (20, 40, 200)}  # RGB
SIZE = (36, 64)  # height, width [px]


def global_from_ego_at(seconds: float) -> np.ndarray:
    """Pose of the vehicle: it drives in the first scene and stands later."""
    moved = seconds if seconds < 5 else 0.0
    yaw = 0.2 * moved
    pose = np.eye(4)
    pose[:2, :2] = [[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]]
    pose[:3, 3] = [100.0 + 10.0 * moved, 50.0 + moved * moved, 0.5]
    return pose


def ego_from(channel: str) -> np.ndarray:
    (w, x, y, z), translation = CALIBRATION[channel]
    pose = np.eye(4)
    pose[:3, 3] = translation
    for column, unit in enumerate(np.eye(3)):
        # v + 2 w (q x v) + 2 q x (q x v)
        vector = np.array([x, y, z])
        turned = np.cross(vector, unit)
        pose[:3, column] = unit + 2 * w * turned + 2 * np.cross(vector, turned)
    return pose


class TinyDatabase:
    """The database, and the numbers it was made from.

    Args:
        root: Where it goes.
        front_delay: Of CAM_FRONT from the LiDAR's stamp [s].
        is_whole: CAM_BACK is in all samples.
        start: When the drive begins [s].
    """

    version = "v1.0-tiny"
    landmarks = LANDMARKS
    colours = COLOURS

    def __init__(self, root: Path, *, front_delay: float = -0.04, is_whole: bool = False, start: float = 0.0) -> None:
        self.root, self.front_delay, self.is_whole, self.start = root, front_delay, is_whole, start
        self.tables: dict[str, list[dict[str, Any]]] = {
            name: []
            for name in (
                *("category", "attribute", "visibility", "instance", "sensor", "calibrated_sensor", "ego_pose"),
                *("log", "scene", "sample", "sample_data", "sample_annotation", "map"),
            )
        }

    @staticmethod
    def global_from_ego_at(seconds: float) -> np.ndarray:
        """Pose (4, 4) of the vehicle."""
        return global_from_ego_at(seconds)

    @staticmethod
    def ego_from(channel: str) -> np.ndarray:
        """Mounting (4, 4) of a sensor."""
        return ego_from(channel)

    def write(self) -> None:
        """Write everything."""
        self._write_fixed_tables()
        self._write_scene("scene-drive", [self.start + seconds for seconds in (0.0, 0.5, 1.0)])
        self._write_scene("scene-stand", [10.0])
        self._write_scene("scene-empty", [20.0])
        self._annotate("vehicle.car", "drive", lambda t: [110.0 + 5.0 * t, 50.0, 1.0], [1.9, 4.5, 1.6], 0.0)
        self._annotate("movable_object.barrier", "drive", lambda t: [105.0, 60.0, 1.0], [2.0, 0.5, 1.0], 0.3)
        self._annotate("static_object.bicycle_rack", "drive", lambda t: [105.0, 65.0, 1.0], [2.0, 0.5, 1.0], 0.0)
        self._annotate("human.pedestrian.adult", "stand", lambda t: [103.0, 54.0, 1.4], [0.6, 0.7, 1.8], -2.0, points=0)
        folder = self.root / self.version
        folder.mkdir()
        for name, records in self.tables.items():
            (folder / f"{name}.json").write_text(json.dumps(records))
        splits = {
            "tiny_train": ["scene-drive"],
            "tiny_val": ["scene-stand", "scene-drive"],
            "tiny_empty": ["scene-empty"],
        }
        (folder / "splits.json").write_text(json.dumps(splits))

    def _write_fixed_tables(self) -> None:
        names = ("vehicle.car", "movable_object.barrier", "static_object.bicycle_rack", "human.pedestrian.adult")
        self.tables["category"] = [{"token": f"category-{name}", "name": name} for name in names]
        self.tables["attribute"] = [
            {"token": f"attribute-{name}", "name": name} for name in ("vehicle.moving", "pedestrian.standing")
        ]
        self.tables["visibility"] = [{"token": "4", "level": "v80-100"}]
        self.tables["log"] = [{"token": "log", "logfile": "log"}]
        self.tables["map"] = [{"token": "map", "log_tokens": ["log"], "filename": "maps/none.png"}]
        (self.root / "maps").mkdir(parents=True)
        cv2.imwrite(str(self.root / "maps/none.png"), np.zeros((4, 4), dtype=np.uint8))
        for channel, (rotation, translation) in CALIBRATION.items():
            modality = "lidar" if channel == "LIDAR_TOP" else "camera"
            self.tables["sensor"].append({"token": f"sensor-{channel}", "channel": channel, "modality": modality})
            intrinsic = [[50.0, 0.0, 31.5], [0.0, 50.0, 17.5], [0.0, 0.0, 1.0]] if modality == "camera" else []
            self.tables["calibrated_sensor"].append(
                {
                    "token": f"calibration-{channel}",
                    "sensor_token": f"sensor-{channel}",
                    "rotation": rotation,
                    "translation": translation,
                    "camera_intrinsic": intrinsic,
                }
            )

    def _write_scene(self, name: str, times: list[float]) -> None:
        tokens = [f"{name}-{number}" for number in range(len(times))]
        ends = {"first_sample_token": tokens[0], "last_sample_token": tokens[-1], "nbr_samples": len(tokens)}
        self.tables["scene"].append({"token": name, "name": name, "log_token": "log", **ends})
        for token, before, after, time in zip(tokens, ["", *tokens], [*tokens[1:], ""], times, strict=False):
            self.tables["sample"].append(
                {"token": token, "scene_token": name, "timestamp": round(time * 1e6), "prev": before, "next": after}
            )
            self._write_camera(token, "CAM_FRONT", time + self.front_delay)
            if token != "scene-drive-2" or self.is_whole:
                self._write_camera(token, "CAM_BACK", time + 0.03)
        previous = ""
        for step in range(round((times[-1] - times[0]) / 0.1) + 1):
            sample, rest = divmod(step, 5)
            previous = self._write_sweep(tokens[sample + (rest > 0)], times[0] + 0.1 * step, rest == 0, previous)

    def _write_camera(self, sample: str, channel: str, time: float) -> None:
        scene, rows = sample.rpartition("-")[0], self.tables["sample_data"]
        before = [row for row in rows if row["filename"].split("/")[1] == channel]
        record = self._sample_data(sample, channel, time, True, "jpg")
        if before and before[-1]["sample_token"].startswith(scene):
            before[-1]["next"], record["prev"] = record["token"], before[-1]["token"]
        image = np.full((*SIZE, 3), COLOURS[channel][::-1], dtype=np.uint8)
        cv2.imwrite(str(self.root / record["filename"]), image)

    def _write_sweep(self, sample: str, time: float, key_frame: bool, previous: str) -> str:
        record = self._sample_data(sample, "LIDAR_TOP", time, key_frame, "bin")
        record["prev"] = previous
        sensor_from_global = np.linalg.inv(global_from_ego_at(time) @ ego_from("LIDAR_TOP"))
        points = np.zeros((len(LANDMARKS) + 1, 5), dtype=np.float32)
        points[:-1, :3] = LANDMARKS @ sensor_from_global[:3, :3].T + sensor_from_global[:3, 3]
        points[-1, :3] = [0.5, -0.9, -1.0]  # the vehicle's own roof
        points[:, 3] = [0, 51, 102, 255, 7]
        points.tofile(self.root / record["filename"])
        return str(record["token"])

    def _sample_data(self, sample: str, channel: str, time: float, key_frame: bool, suffix: str) -> dict[str, Any]:
        token = f"{channel}-{time:.2f}"
        pose = global_from_ego_at(time)
        yaw = math.atan2(pose[1, 0], pose[0, 0])
        rotation = [math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)]
        self.tables["ego_pose"].append(
            {"token": token, "rotation": rotation, "translation": pose[:3, 3].tolist(), "timestamp": round(time * 1e6)}
        )
        folder = f"{'samples' if key_frame else 'sweeps'}/{channel}"
        (self.root / folder).mkdir(parents=True, exist_ok=True)
        record = {
            "token": token,
            "sample_token": sample,
            "ego_pose_token": token,
            "calibrated_sensor_token": f"calibration-{channel}",
            "timestamp": round(time * 1e6),
            "fileformat": suffix,
            "is_key_frame": key_frame,
            "height": SIZE[0],
            "width": SIZE[1],
            "filename": f"{folder}/{token}.{suffix}",
            "prev": "",
            "next": "",
        }
        self.tables["sample_data"].append(record)
        return record

    def _annotate(self, category: str, scene: str, place: Any, size: list[float], yaw: float, points: int = 7) -> None:
        """Annotate one object in all samples of a scene."""
        samples = [sample for sample in self.tables["sample"] if sample["scene_token"] == f"scene-{scene}"]
        tokens = [f"{category}-{sample['token']}" for sample in samples]
        attribute = {
            "vehicle.car": ["attribute-vehicle.moving"],
            "human.pedestrian.adult": ["attribute-pedestrian.standing"],
        }
        self.tables["instance"].append({"token": category, "category_token": f"category-{category}"})
        for number, (sample, token) in enumerate(zip(samples, tokens, strict=True)):
            self.tables["sample_annotation"].append(
                {
                    "token": token,
                    "sample_token": sample["token"],
                    "instance_token": category,
                    "attribute_tokens": attribute.get(category, []),
                    "visibility_token": "4",
                    "translation": place(sample["timestamp"] * 1e-6),
                    "size": size,
                    "rotation": [math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)],
                    "num_lidar_pts": points,
                    "num_radar_pts": 0,
                    "prev": tokens[number - 1] if number else "",
                    "next": tokens[number + 1] if number + 1 < len(tokens) else "",
                }
            )


@pytest.fixture
def tiny(tmp_path: Path) -> TinyDatabase:
    """A tiny database, fresh for each test; see the top of this file."""
    database = TinyDatabase(tmp_path / "tiny")
    database.write()
    return database


@pytest.fixture
def small_files() -> Iterator[None]:
    """Files of at most 1 kB, as on a disk that is almost full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


TINY_RUN: dict[str, Any] = {  # settings of `bevdistill train` for the tiny database
    "data.version": "v1.0-tiny",
    "data.train_split": "tiny_train",
    "data.val_split": "tiny_val",
    "data.num_sweeps": 1,
    "teacher": {
        "grid": {"rows": 8, "cols": 8},
        "pillar_stride": 1,
        "point_channels": [8],
        "stage_channels": [8, 8],
        "stage_layers": 1,
        "num_levels": 2,
        "embed_dim": 16,
        "num_heads": 2,
        "num_points": 2,
        "feedforward_dim": 16,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "num_queries": 12,
    },
    "student": {
        "grid": {"rows": 8, "cols": 8},
        "cameras": ["CAM_FRONT", "CAM_BACK"],
        "image_height": 32,
        "image_width": 64,
        "backbone": "resnet18",
        "backbone_width": 4,
        "backbone_norm": "batch",
        "frozen_stages": 0,
        "num_levels": 2,
        "embed_dim": 16,
        "num_heads": 2,
        "feedforward_dim": 16,
        "encoder_layers": 1,
        "points_per_height": 1,
        "decoder_layers": 2,
        "num_queries": 12,
    },
    "optim.steps": 2,
    "optim.batch_size": 2,
    "optim.warmup_steps": 2,
    "optim.learning_rate": 1e-3,
    "run.num_workers": 0,
    "run.accelerator": "cpu",
    "run.threads": 1,
    "run.log_every": 1,
    "run.progress": False,
}


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory: pytest.TempPathFactory) -> TinyDatabase:
    """A tiny database that tests only read; see the top of this file."""
    database = TinyDatabase(tmp_path_factory.mktemp("world") / "tiny")
    database.write()
    return database


@pytest.fixture(scope="session")
def train_arguments(tiny_world: TinyDatabase) -> Callable[..., list[str]]:
    """Makes the command line of a tiny training run; changes are settings by their keys."""

    def make(output: Path, **changes: Any) -> list[str]:
        settings = {**TINY_RUN, "data.root": str(tiny_world.root), "run.output": str(output), **changes}
        return [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in settings.items()]

    return make


@pytest.fixture(scope="session")
def make_run(train_arguments: Callable[..., list[str]]) -> Callable[..., Any]:
    """Makes the configuration of a tiny training run, see `train_arguments`."""
    from training.cli.settings import settings_from
    from training.run.config import TrainConfig

    return lambda output, **changes: settings_from(TrainConfig, train_arguments(output, **changes))


@pytest.fixture(scope="session")
def tiny_teacher(make_run: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a teacher that was trained for two steps."""
    from training.run.fit import fit

    return fit(make_run(tmp_path_factory.mktemp("teacher") / "run", role="teacher"))


@pytest.fixture(scope="session")
def tiny_student(make_run: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a student that was trained for two steps."""
    from training.run.fit import fit

    return fit(make_run(tmp_path_factory.mktemp("student") / "run"))


@pytest.fixture(scope="session")
def tiny_bundle(tiny_student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundle of that student."""
    from training.export.run import ExportConfig, run_export

    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    run_export(ExportConfig(checkpoint=str(tiny_student), output=str(folder)))
    return folder

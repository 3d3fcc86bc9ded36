"""The thirteen tables of the nuScenes schema for recorded scenes."""

import itertools
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from bevdistill_ros.core.geometry import quaternion_from_matrix, quaternion_from_yaw
from training.data.schema import MAP_FILE, VISIBILITIES, Row, Tables, chained, named_rows, token_of
from training.synth.config import SynthConfig
from training.synth.recorder import Recording, SceneRecord
from training.synth.rig import LIDAR_NAME, ego_from_lidar


def build_tables(config: SynthConfig, records: Sequence[SceneRecord]) -> Tables:
    """All rows, by the name of the table."""
    tables: Tables = {**_static_tables(config), **{name: [] for name in _GROWING}}
    for record in records:
        _add_scene(tables, config, record)
    tables["map"] = [
        {
            "token": token_of("map"),
            "category": "semantic_prior",
            "filename": MAP_FILE,
            "log_tokens": [row["token"] for row in tables["log"]],
        }
    ]
    return tables


_GROWING = ("log", "scene", "sample", "sample_data", "ego_pose", "instance", "sample_annotation")


def scene_name(index: int) -> str:
    """Name of a scene."""
    return f"synth-{index:04d}"


def _static_tables(config: SynthConfig) -> Tables:
    cameras = config.cameras()
    lidar = _calibration(LIDAR_NAME, ego_from_lidar(), [])
    return {
        **named_rows(),
        "sensor": [
            {"token": token_of("sensor", LIDAR_NAME), "channel": LIDAR_NAME, "modality": "lidar"},
            *(
                {"token": token_of("sensor", camera.name), "channel": camera.name, "modality": "camera"}
                for camera in cameras
            ),
        ],
        "calibrated_sensor": [
            lidar,
            *(_calibration(camera.name, camera.ego_from_camera, camera.intrinsics.tolist()) for camera in cameras),
        ],
    }


def _calibration(channel: str, ego_from_sensor: np.ndarray, intrinsics: list[list[float]]) -> Row:
    return {
        "token": token_of("calibrated_sensor", channel),
        "sensor_token": token_of("sensor", channel),
        "translation": ego_from_sensor[:3, 3].tolist(),
        "rotation": quaternion_from_matrix(ego_from_sensor[:3, :3]).tolist(),
        "camera_intrinsic": intrinsics,
    }


def _add_scene(tables: Tables, config: SynthConfig, record: SceneRecord) -> None:
    scene = f"{config.seed}/{record.index}"
    samples = [token_of(scene, "sample", number) for number in range(len(record.key_stamps_us))]
    log, token = token_of(scene, "log"), token_of(scene, "scene")
    tables["log"].append(
        {"token": log, "logfile": "", "vehicle": "synthetic", "date_captured": "2020-09-13", "location": "synthetic"}
    )
    tables["scene"].append(
        {
            "token": token,
            "log_token": log,
            "nbr_samples": len(samples),
            "first_sample_token": samples[0],
            "last_sample_token": samples[-1],
            "name": scene_name(record.index),
            "description": f"synthetic street, seed {config.seed}",
        }
    )
    tables["sample"] += chained(
        {"token": sample, "timestamp": stamp, "scene_token": token}
        for sample, stamp in zip(samples, record.key_stamps_us, strict=True)
    )
    _add_recordings(tables, scene, samples, record.recordings)
    _add_annotations(tables, scene, samples, record)


def _add_recordings(tables: Tables, scene: str, samples: Sequence[str], recordings: Sequence[Recording]) -> None:
    channels: defaultdict[str, list[Row]] = defaultdict(list)
    for entry in recordings:
        pose = token_of(scene, "ego_pose", entry.channel, entry.stamp_us)
        tables["ego_pose"].append(
            {
                "token": pose,
                "timestamp": entry.stamp_us,
                "rotation": quaternion_from_matrix(entry.global_from_ego[:3, :3]).tolist(),
                "translation": entry.global_from_ego[:3, 3].tolist(),
            }
        )
        channels[entry.channel].append(
            {
                "token": token_of(scene, "sample_data", entry.channel, entry.stamp_us),
                "sample_token": samples[entry.key_frame],
                "ego_pose_token": pose,
                "calibrated_sensor_token": token_of("calibrated_sensor", entry.channel),
                "timestamp": entry.stamp_us,
                "fileformat": "pcd" if entry.channel == LIDAR_NAME else "jpg",
                "is_key_frame": entry.is_key_frame,
                "height": entry.size[0],
                "width": entry.size[1],
                "filename": entry.file,
            }
        )
    tables["sample_data"] += itertools.chain.from_iterable(map(chained, channels.values()))


def _add_annotations(tables: Tables, scene: str, samples: Sequence[str], record: SceneRecord) -> None:
    actors: defaultdict[int, list[Row]] = defaultdict(list)
    categories: dict[int, str] = {}
    for entry in record.annotations:
        categories[entry.actor] = entry.category
        length, width, height = entry.size
        visibility = next(number for number, (_, limit) in enumerate(VISIBILITIES) if entry.visible_share <= limit)
        actors[entry.actor].append(
            {
                "token": token_of(scene, "annotation", entry.actor, entry.key_frame),
                "sample_token": samples[entry.key_frame],
                "instance_token": token_of(scene, "instance", entry.actor),
                "visibility_token": str(visibility + 1),
                "attribute_tokens": [token_of("attribute", entry.attribute)] if entry.attribute else [],
                "translation": list(entry.centre),
                "size": [width, length, height],
                "rotation": quaternion_from_yaw(entry.yaw).tolist(),
                "num_lidar_pts": entry.num_lidar_points,
                "num_radar_pts": 0,
            }
        )
    for actor, rows in actors.items():
        tables["instance"].append(
            {
                "token": token_of(scene, "instance", actor),
                "category_token": token_of("category", categories[actor]),
                "nbr_annotations": len(rows),
                "first_annotation_token": rows[0]["token"],
                "last_annotation_token": rows[-1]["token"],
            }
        )
        tables["sample_annotation"] += chained(rows)

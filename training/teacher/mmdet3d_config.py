"""What a configuration of mmdet3d 1.x says of its detector: range, voxels, classes and points; read without mmdet3d.

mmdet3d writes the range and the voxels down once for each part of a detector, and lets them differ; the boxes or the
map would then be shifted without any error, so they are compared here. What does not fit our points, classes or grid is
refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isclose
from typing import Any

from bevdistill_ros.core.boxes import BOX_SIZE
from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.core.nuscenes import CLASS_NAMES

LAG_COLUMN = 4  # of our points [x y z intensity lag] and, after its sweep loader, of mmdet3d's


@dataclass(frozen=True, kw_only=True)
class Mmdet3dConfig:
    """A LiDAR detector of mmdet3d as the teacher."""

    config: str = ""  # its mmdet3d configuration: a file, or a path in mmdet3d's configs; empty: the teacher is ours
    num_queries: int = 300  # its best boxes, which stand in for the queries of a decoder

    def __post_init__(self) -> None:
        if self.num_queries < 1:
            raise ValueError(f"mmdet3d.num_queries must be at least 1, but is {self.num_queries}")


@dataclass(frozen=True, kw_only=True)
class DetectorFacts:
    """The facts of a detector that its inputs and outputs depend on."""

    voxels: BevGrid  # in the LiDAR's own frame
    head_stride: int | None  # voxels along a cell of the map that the head counts on; None where it takes any
    columns: tuple[int, ...]  # which of our points' columns it reads
    num_sweeps: int  # before the key frame
    class_names: tuple[str, ...]  # by its labels


def facts_of(config: Mapping[str, Any], source: str, *, trained_classes: Sequence[str] | None = None) -> DetectorFacts:
    """Read the facts of a detector.

    Args:
        config: Of mmdet3d, as plain dicts.
        source: Where it comes from, for messages.
        trained_classes: Class names that the checkpoint was trained with, by label; None where it does not say.

    Raises:
        ValueError: The detector cannot be a teacher here, or its parts contradict each other.
    """
    try:
        model = config["model"]
        if _part(model, "img_backbone"):
            raise ValueError("it needs camera images; choose a detector that takes LiDAR points only")
        missing = [name for name in ("neck", "bbox_head") if not _part(model, name)]
        if missing:
            raise ValueError(
                f"it has no {missing[0]}; choose a one-stage detector with a BEV neck, such as CenterPoint"
            )
        voxels = _voxels(model)
        columns, num_sweeps = _points(config)
        _check_encoder(model, voxels, len(columns))
        class_names = _classes(config, trained_classes)
        return DetectorFacts(
            voxels=voxels,
            head_stride=_head_stride(model, voxels),
            columns=columns,
            num_sweeps=num_sweeps,
            class_names=class_names,
        )
    except KeyError as error:
        raise ValueError(f"{source} can't be a teacher: it has no {error}, which a detector of mmdet3d has") from error
    except ValueError as error:
        raise ValueError(f"{source} can't be a teacher: {error}") from error


def _part(model: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Settings of a part of a detector, whose name has a prefix in detectors that could also take images."""
    part: Mapping[str, Any] = model.get(f"pts_{name}") or model.get(name) or {}
    return part


def _voxels(model: Mapping[str, Any]) -> BevGrid:
    settings = model.get("data_preprocessor") or {}
    layer = settings.get("voxel_layer")
    if not settings.get("voxel") or not layer or settings.get("voxel_type", "hard") not in ("hard", "dynamic"):
        raise ValueError(
            "it makes no pillars or voxels, so it has no BEV map; choose CenterPoint, PointPillars or SECOND"
        )
    x_min, y_min, z_min, x_max, y_max, z_max = map(float, layer["point_cloud_range"])
    if not (x_min < 0 < x_max and y_min < 0 < y_max):
        raise ValueError(
            f"its range x {x_min}...{x_max} m, y {y_min}...{y_max} m does not surround the sensor, as that of a "
            "detector for nuScenes does; choose one that was trained on nuScenes"
        )
    length, width = map(float, layer["voxel_size"][:2])
    cols, rows = round((x_max - x_min) / length), round((y_max - y_min) / width)
    return BevGrid(
        x_min=x_min, x_max=x_max, y_min=y_min, y_max=y_max, z_min=z_min, z_max=z_max, rows=rows, cols=cols
    )  # fmt: skip


def _check_encoder(model: Mapping[str, Any], voxels: BevGrid, num_columns: int) -> None:
    encoder, middle = _part(model, "voxel_encoder"), _part(model, "middle_encoder")
    _check_place("voxel_encoder", encoder, "point_cloud_range", voxels)
    taken = encoder.get("in_channels") or encoder.get("num_features") or num_columns
    if taken != num_columns:
        raise ValueError(f"its pipeline gives points of {num_columns} columns, but its voxel_encoder takes {taken}")
    shape = middle.get("output_shape") or (middle.get("sparse_shape") or ())[1:]
    if shape and tuple(shape) != (voxels.rows, voxels.cols):
        raise ValueError(
            f"its middle_encoder draws a map of {tuple(shape)} voxels, but its range holds "
            f"{(voxels.rows, voxels.cols)}; make point_cloud_range, voxel_size and the map's shape agree"
        )


def _head_stride(model: Mapping[str, Any], voxels: BevGrid) -> int | None:
    coder = _part(model, "bbox_head").get("bbox_coder") or {}
    is_center = "out_size_factor" in coder
    size = coder.get("code_size", BOX_SIZE if is_center else BOX_SIZE - 2)  # mmdet3d's defaults
    if size != BOX_SIZE:
        raise ValueError(f"its boxes have {size} numbers, but {BOX_SIZE} are needed, with a velocity")
    if not is_center:
        return None
    _check_place("bbox_coder", coder, "pc_range", voxels)
    return int(coder["out_size_factor"])


def _check_place(part: str, settings: Mapping[str, Any], range_name: str, voxels: BevGrid) -> None:
    """Compare the range and the voxels of a part with those of the voxel layer."""
    expected = {range_name: (voxels.x_min, voxels.y_min), "voxel_size": voxels.cell_size}
    for name, values in expected.items():
        found = settings.get(name)
        if found and not all(isclose(a, b, abs_tol=1e-4) for a, b in zip(found[:2], values, strict=True)):
            raise ValueError(
                f"{name} of its {part} begins with {list(found[:2])}, but its voxel_layer says {list(values)}; "
                "set both to what it was trained with"
            )


def _points(config: Mapping[str, Any]) -> tuple[tuple[int, ...], int]:
    """Columns of our points that the test pipeline gives the detector, and its sweeps before the key frame."""
    pipeline = _test_dataset(config).get("pipeline") or config["test_pipeline"]
    steps = {step["type"]: step for step in pipeline}
    loader, sweeps = steps.get("LoadPointsFromFile"), steps.get("LoadPointsFromMultiSweeps")
    if loader is None:
        raise ValueError("its test pipeline loads no points (LoadPointsFromFile)")
    changed = [name for name in ("norm_intensity", "norm_elongation", "shift_height", "use_color") if loader.get(name)]
    if changed:
        raise ValueError(f"its points are loaded with {changed[0]}, which ours are not; choose a detector without it")
    columns = _columns(loader.get("use_dim", [0, 1, 2]))
    if sweeps is not None:
        return _columns(sweeps.get("use_dim", [0, 1, 2, 4])), int(sweeps.get("sweeps_num", 10))
    if LAG_COLUMN in columns:
        raise ValueError("it reads column 4 of one sweep (the ring, in nuScenes), which our points do not carry")
    return columns, 0


def _columns(use_dim: int | Sequence[int]) -> tuple[int, ...]:
    columns = tuple(range(use_dim)) if isinstance(use_dim, int) else tuple(use_dim)
    if columns[:3] != (0, 1, 2) or not set(columns) <= set(range(LAG_COLUMN + 1)):
        raise ValueError(f"it reads the columns {list(columns)}, but our points have [x y z intensity lag]")
    return columns


def _classes(config: Mapping[str, Any], trained: Sequence[str] | None) -> tuple[str, ...]:
    """Class names by label, which the checkpoint, the data set and the head must agree on."""
    configured = (_test_dataset(config).get("metainfo") or {}).get("classes") or config.get("class_names")
    head = _part(config["model"], "bbox_head")
    tasks = [name for task in head.get("tasks") or () for name in task["class_names"]]
    found = {"checkpoint": trained, "data set": configured, "head": tasks}
    orders = {where: tuple(names) for where, names in found.items() if names}
    if not orders:
        raise ValueError("neither its configuration (metainfo.classes) nor its checkpoint names its classes")
    (first, names), *others = orders.items()
    for where, other in others:
        if other != names:
            raise ValueError(
                f"its {first} has the classes {', '.join(names)}, but its {where} {', '.join(other)}; "
                "give the configuration that the checkpoint was trained with"
            )
    if sorted(names) != sorted(CLASS_NAMES):
        raise ValueError(
            f"its classes are {', '.join(names)}, but the ten of nuScenes are needed ({', '.join(CLASS_NAMES)}); "
            "choose a detector that was trained on nuScenes"
        )
    return names


def _test_dataset(config: Mapping[str, Any]) -> Mapping[str, Any]:
    dataset: Mapping[str, Any] = (config.get("test_dataloader") or {}).get("dataset") or {}
    return dataset

"""A LiDAR detector of mmdet3d 1.x as the frozen teacher.

points, ego -> LiDAR frame -> voxels -> backbone -> neck -> head -> boxes and map, LiDAR -> ego frame

mmdet3d works in the frame of the sensor, which is turned, shifted and leans a little against the ego frame. Its maps
have rows along the sensor's y and columns along its x; its boxes are [x y z l w h yaw vx vy] as ours, but z is the
bottom. The map is read, by bilinear interpolation, at the cells of the grid that is asked for; beyond it lies zero.

Most of these detectors have no queries. Their best boxes stand in for them, with the map at a box's centre as its
feature, so that every distillation method has what it compares.

Deviations: boxes come as mmdet3d decodes and suppresses them, but from scores of `LEAST_SCORE` on, below its own
threshold; and flips at test time, which some configurations ask for, are not done.

Only this module knows mmdet3d, which is imported when a teacher is loaded.

Shape legend: B batch, N boxes of a frame, Q queries, C channels.
"""

import importlib.util
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bevdistill_ros.core.boxes import encode_boxes, transform_boxes
from bevdistill_ros.core.geometry import invert_rigid, transform_points
from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.core.nuscenes import CLASS_NAMES, NUM_CLASSES
from bevdistill_ros.model.records import SetPrediction
from training.data.points import NUSCENES_LAYOUT
from training.teacher.mmdet3d_config import DetectorFacts, Mmdet3dConfig, facts_of
from training.teacher.output import TeacherOutput
from training.weights.foreign import read_foreign_checkpoint

INTENSITY_COLUMN = 3
LEAST_SCORE = 0.01
NO_SCORE = -30.0  # logit of a class that a box does not have
NO_DETECTION = 1e-6  # between NO_SCORE and LEAST_SCORE
MAP_HEIGHT = 1.0  # [m] above the ego origin, where the cells of both maps meet: about the middle of an object
MAX_GAP = 2.5  # [m] that our grid may reach beyond the detector's map: a sensor off the ego origin, and +-50 m ranges
OWN_CELL = 0.8  # [m] of the grid that a detector gets where none is asked for


def load_mmdet3d_teacher(
    config: Mmdet3dConfig, checkpoint: Path | str, *, grid: BevGrid | None = None
) -> "Mmdet3dTeacher":
    """A detector of mmdet3d with the weights of its checkpoint, in eval mode.

    Args:
        config: Which detector. A configuration of mmdet3d is Python code, which runs here.
        checkpoint: Weights as mmdet3d saves them; no code in it runs.
        grid: Where its map is wanted; None is its own range in cells of `OWN_CELL`.

    Raises:
        ValueError: mmdet3d is not installed, or the configuration or the checkpoint cannot be read or does not fit.
    """
    _check_installed(config)
    content = read_foreign_checkpoint(checkpoint)
    teacher = build_mmdet3d_teacher(config, grid=grid, trained_classes=_trained_classes(content))
    _fill(teacher.detector, content["state_dict"], checkpoint, config.config)
    return teacher


def build_mmdet3d_teacher(
    config: Mmdet3dConfig, *, grid: BevGrid | None = None, trained_classes: Sequence[str] | None = None
) -> "Mmdet3dTeacher":
    """A detector of mmdet3d with random weights, in eval mode.

    Args:
        config: Which detector. A configuration of mmdet3d is Python code, which runs here.
        grid: Where its map is wanted; None is its own range in cells of `OWN_CELL`.
        trained_classes: Class names, by label, of weights that it is to have; None where they are not known.

    Raises:
        ValueError: mmdet3d is not installed, or the configuration cannot be read or does not fit.
    """
    _check_installed(config)
    settings = _read_settings(config.config)
    facts = facts_of(settings.to_dict(), config.config, trained_classes=trained_classes)
    detector = _build(settings.model, config.config)
    return Mmdet3dTeacher(detector.eval(), facts, grid=grid or _own_grid(facts), num_queries=config.num_queries)


def _check_installed(config: Mmdet3dConfig) -> None:
    if importlib.util.find_spec("mmdet3d") is None:
        raise ValueError(f"the teacher {config.config} needs mmdet3d, which is not installed; run make setup-mmdet3d")


class Mmdet3dTeacher(nn.Module):
    """Adapts a detector of mmdet3d to our frame and units.

    Args:
        detector: In eval mode.
        facts: Of its configuration.
        grid: Where its map is wanted.
        num_queries: Boxes of a frame, best first; where it finds fewer, boxes without any score fill up.
    """

    def __init__(self, detector: nn.Module, facts: DetectorFacts, *, grid: BevGrid, num_queries: int) -> None:
        super().__init__()
        self.detector: Any = detector
        self.facts, self.grid, self.num_queries = facts, grid, num_queries
        self.channels = int(_head_of(detector).in_channels)
        self._labels = [CLASS_NAMES.index(name) for name in facts.class_names]

    def forward(self, points: Sequence[Tensor], ego_from_lidar: Tensor) -> TeacherOutput:
        """Detect objects.

        Args:
            points: B x (P_b, 5) float32 [x y z intensity lag] in the ego frame: m, 0...1, s.
            ego_from_lidar: (B, 4, 4) float64 [m], where the LiDAR is mounted.

        Returns:
            The map on the grid, and the boxes as the queries of one decoder layer.

        Raises:
            ValueError: A frame has no point in the detector's range, or the map does not fit.
        """
        lidar_from_ego = invert_rigid(ego_from_lidar)
        with torch.autocast(points[0].device.type, enabled=False):  # mmdet3d's operators take float32
            maps = self.maps(points, lidar_from_ego)
            found = self._instances(maps)
        bev, native = self._map(maps)
        places = self._places(lidar_from_ego)
        resampled = native.sample(bev, places.flatten(1, 2)).transpose(1, 2)
        return TeacherOutput(
            finest=resampled.unflatten(2, (self.grid.rows, self.grid.cols)),
            encoded=None,
            grid=self.grid,
            predictions=self._predictions(found, bev, native, ego_from_lidar),
        )

    @property
    def head(self) -> Any:
        """What makes boxes, and in training losses, of the maps."""
        return _head_of(self.detector)

    def maps(self, points: Sequence[Tensor], lidar_from_ego: Tensor) -> Sequence[Tensor]:
        """Maps of the neck (B, C, rows, cols), in the sensor's frame.

        Args:
            points: As of `forward`.
            lidar_from_ego: (B, 4, 4) float64 [m].
        """
        clouds = [self._cloud(*item) for item in zip(points, lidar_from_ego, strict=True)]
        samples = _data_samples(len(clouds))
        voxels = self.detector.data_preprocessor.voxelize(clouds, samples)
        if hasattr(self.detector, "extract_pts_feat"):  # detectors that could also take images
            metas = [sample.metainfo for sample in samples]
            maps: Sequence[Tensor] = self.detector.extract_pts_feat(voxels, points=clouds, batch_input_metas=metas)
        else:
            maps = self.detector.extract_feat({"points": clouds, "voxels": voxels})
        return maps

    def _cloud(self, points: Tensor, lidar_from_ego: Tensor) -> Tensor:
        """Points (P, columns) as the detector was trained with them: in the sensor's frame, intensity 0...255."""
        cloud = points.clone()
        cloud[:, :3] = transform_points(lidar_from_ego, points[:, :3].double()).to(points.dtype)
        cloud[:, INTENSITY_COLUMN] *= NUSCENES_LAYOUT.max_intensity
        if not self.facts.voxels.contains(cloud[:, :3]).any():
            raise ValueError("a frame has no LiDAR point in the range of the mmdet3d teacher; leave the frame out")
        return cloud[:, self.facts.columns].contiguous()

    def _instances(self, maps: Sequence[Tensor]) -> list[Any]:
        """mmdet3d's instances of each frame."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice of torch to mmdet3d
            found: list[Any] = self.head.predict(maps, _data_samples(len(maps[0])))
        return found

    def _map(self, maps: Sequence[Tensor]) -> tuple[Tensor, BevGrid]:
        """The map whose cells are nearest in size to ours, and its grid in the sensor's frame."""
        grids = [self._native_grid(bev, first=bev is maps[0]) for bev in maps]
        wanted = self.grid.cell_size[0]
        ratios = [max(grid.cell_size[0] / wanted, wanted / grid.cell_size[0]) for grid in grids]
        best = ratios.index(min(ratios))
        return maps[best].float(), grids[best]

    def _native_grid(self, bev: Tensor, *, first: bool) -> BevGrid:
        voxels, (channels, rows, cols) = self.facts.voxels, bev.shape[1:]
        stride = voxels.rows // rows
        expected = self.facts.head_stride if first and self.facts.head_stride else stride
        if (rows * expected, cols * expected) != (voxels.rows, voxels.cols) or channels != self.channels:
            raise ValueError(
                f"the map of the mmdet3d teacher has {channels} channels and {(rows, cols)} cells, but its head takes "
                f"{self.channels} channels, and its range holds {(voxels.rows, voxels.cols)} voxels, {expected} along "
                "a cell; give the configuration that the checkpoint was trained with"
            )
        return voxels.with_cells(rows, cols)

    def _places(self, lidar_from_ego: Tensor) -> Tensor:
        """Where our cells lie in the sensor's frame: x, y (B, rows, cols, 2) [m]."""
        centres = self.grid.cell_centres(lidar_from_ego.device).double().flatten(0, 1)
        centres = torch.nn.functional.pad(centres, (0, 1), value=MAP_HEIGHT)
        places = transform_points(lidar_from_ego, centres)[..., :2]
        voxels = self.facts.voxels
        low, high = places.new_tensor([voxels.x_min, voxels.y_min]), places.new_tensor([voxels.x_max, voxels.y_max])
        gap = float(torch.maximum(low - places, places - high).max())
        if gap > MAX_GAP:
            raise ValueError(
                f"the range of the mmdet3d teacher, x {voxels.x_min}...{voxels.x_max} m and y {voxels.y_min}..."
                f"{voxels.y_max} m around the sensor, ends {gap:.1f} m inside the grid; make student.grid smaller"
            )
        return places.unflatten(1, (self.grid.rows, self.grid.cols))

    def _predictions(self, found: list[Any], bev: Tensor, native: BevGrid, ego_from_lidar: Tensor) -> SetPrediction:
        logits, codes, centres = [], [], []
        for instances, transform in zip(found, ego_from_lidar, strict=True):
            boxes_N9, logits_NK = self._best(instances)
            boxes_Q9 = self._filled(boxes_N9, boxes_N9.new_tensor([0, 0, 0, 1, 1, 1, 0, 0, 0]))
            centres.append(boxes_Q9[:, :2])
            codes.append(encode_boxes(transform_boxes(transform, boxes_Q9.double())).float())
            logits.append(self._filled(logits_NK, logits_NK.new_full((NUM_CLASSES,), NO_SCORE)))
        return SetPrediction(
            logits=torch.stack(logits)[None],
            codes=torch.stack(codes)[None],
            features=native.sample(bev, torch.stack(centres))[None],
        )

    def _best(self, instances: Any) -> tuple[Tensor, Tensor]:
        """The best boxes of a frame in our layout (N, 9), in the sensor's frame, and their logits (N, K)."""
        scores, order = instances.scores_3d.float().sort(descending=True, stable=True)
        kept = order[: self.num_queries]
        boxes = instances.bboxes_3d[kept]
        place = torch.cat([boxes.gravity_center, boxes.tensor[:, 3:]], dim=1)
        labels = torch.tensor(self._labels, device=place.device)[instances.labels_3d[kept].long()]
        score = scores[: len(kept)].clamp(1e-6, 1 - 1e-6).logit()
        logits = place.new_full((len(kept), NUM_CLASSES), NO_SCORE)
        return place, logits.scatter(1, labels[:, None], score[:, None])

    def _filled(self, values: Tensor, row: Tensor) -> Tensor:
        """Values (N, D) with rows (D,) after them up to (Q, D)."""
        return torch.cat([values, row.expand(self.num_queries - len(values), -1)])


def _data_samples(count: int) -> list[Any]:
    from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes

    return [Det3DDataSample(metainfo={"box_type_3d": LiDARInstance3DBoxes}) for _ in range(count)]


def _head_of(detector: Any) -> Any:
    return detector.pts_bbox_head if hasattr(detector, "pts_bbox_head") else detector.bbox_head


def _own_grid(facts: DetectorFacts) -> BevGrid:
    """The square around the ego that the detector sees."""
    voxels = facts.voxels
    half = min(-voxels.x_min, voxels.x_max, -voxels.y_min, voxels.y_max)
    cells = round(2 * half / OWN_CELL)
    return BevGrid(x_min=-half, x_max=half, y_min=-half, y_max=half, rows=cells, cols=cells)


def _read_settings(config: str) -> Any:
    """The configuration (mmengine's Config) of a file, or of a path in mmdet3d's own configs."""
    import mmdet3d
    from mmengine.config import Config

    shipped = Path(mmdet3d.__file__).parent / ".mim/configs"
    found = [path for path in (Path(config), shipped / config) if path.is_file()]
    if not found:
        raise ValueError(f"there is no mmdet3d configuration {config}; give a file, or a path in {shipped}")
    try:
        return Config.fromfile(found[0])
    except Exception as error:  # whatever the code of a configuration raises
        raise ValueError(f"{config} is not a configuration of mmdet3d ({type(error).__name__}: {error})") from error


def _build(model: Any, source: str) -> Any:
    import mmdet3d.models  # noqa: F401 (registers the parts of detectors)
    from mmdet3d.registry import MODELS
    from mmengine.registry import DefaultScope

    try:
        with DefaultScope.overwrite_default_scope("mmdet3d"):
            detector = MODELS.build(model)
    except Exception as error:  # registries raise what the constructors of the parts do
        raise ValueError(build_failure(error, source)) from error
    head = _head_of(detector)
    for settings in (head.test_cfg, vars(head.bbox_coder)):
        for name in {"score_threshold", "score_thr"} & settings.keys():
            settings[name] = min(settings[name] or 0.0, LEAST_SCORE)
    return detector


def build_failure(error: Exception, source: str) -> str:
    """Why a detector can't be built: a module that mmdet3d does not have, or what its parts say."""
    unknown = re.search(r"(\w+) is not in the \S+ registry", str(error))
    if unknown is None:
        return f"mmdet3d can't build the detector of {source} ({type(error).__name__}: {error})"
    return (
        f"{source} needs the module {unknown[1]}, which mmdet3d does not have; register it for mmdet3d 1.x with "
        "custom_imports in that configuration, or choose another teacher (BEVDistill's Object-DGCNN has modules of its "
        "own, written for mmdet3d 0.17)"
    )


def _fill(detector: nn.Module, weights: Mapping[str, Tensor], checkpoint: Path | str, source: str) -> None:
    """Load weights, all of them; sparse convolutions bring older layouts into theirs."""
    try:
        missing, unknown = detector.load_state_dict(weights, strict=False)
        shapes = ""
    except RuntimeError as error:
        missing, unknown, shapes = [], [], str(error).splitlines()[1].strip()
    problems = [
        f"{len(names)} tensors are {what} (first: {names[0]})"
        for names, what in ((missing, "missing"), (unknown, "unknown"))
        if names
    ]
    if shapes or problems:
        raise ValueError(
            f"{checkpoint} holds other weights than {source} takes: {shapes or '; '.join(problems)}; "
            "give the configuration that it was trained with"
        )


def _trained_classes(content: Mapping[str, Any]) -> Sequence[str] | None:
    """Class names that a checkpoint contains, by label."""
    meta = content.get("meta") or {}
    classes: Sequence[str] | None = (meta.get("dataset_meta") or {}).get("classes") or meta.get("CLASSES")
    return classes

"""Detections of a trained model on a split of a data set, and their official score."""

from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from bevdistill_ros.core.records import Detections
from bevdistill_ros.inference.engine_choice import EngineChoice, EngineName, Precision
from training.data.dataset import NuScenesDataset
from training.data.index.load import DataConfig
from training.data.loader import SteadyLoader
from training.data.sample import collate
from training.data.tables import open_tables
from training.evaluate.detector import Detector, load_detector
from training.evaluate.in_view import CameraView
from training.evaluate.metrics import Metrics, check_scorable, evaluate_detections
from training.evaluate.submission import write_submission
from training.teacher.mmdet3d_config import Mmdet3dConfig


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What `bevdistill evaluate` scores."""

    source: str  # bundle folder, or checkpoint of a teacher or student
    mmdet3d: Mmdet3dConfig = field(default_factory=Mmdet3dConfig)  # where source is a checkpoint of mmdet3d
    data: DataConfig = field(default_factory=DataConfig)
    split: str = ""  # empty takes data.val_split
    output: str = "runs/evaluate"  # folder for results.json and metrics.json
    device: str = "auto"  # auto, cpu, cuda or cuda:<index>; auto is the GPU where there is one
    engine: EngineName = "torch"  # what runs a bundle: auto, torch, onnx or openvino
    precision: Precision = "fp32"  # of that engine
    batch_size: int = 4  # frames at once; a temporal student takes one
    num_workers: int = 2  # processes that load data
    in_view: bool = False  # also score what some camera shows alone, of ground truth and detections; for partial rings
    submission: bool = False  # write results.json without a score, whatever annotations there are
    progress: bool = True  # show a bar

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.num_workers < 0:
            raise ValueError(
                f"batch_size must be at least 1 and num_workers at least 0, but they are {self.batch_size} and "
                f"{self.num_workers}"
            )


def detect_split(
    detector: Detector, dataset: NuScenesDataset, *, batch_size: int, num_workers: int, progress: bool
) -> dict[str, Detections]:
    """Detections of every frame of a split by sample token; memory goes from frame to frame inside a scene only."""
    size = 1 if detector.is_temporal else batch_size
    loader = SteadyLoader(dataset, batch_size=size, collate_fn=collate, num_workers=num_workers)
    detections: dict[str, Detections] = {}
    before = -1
    for batch, first in zip(
        tqdm(loader, desc="detect", unit="batch", disable=not progress), dataset.samples[::size], strict=True
    ):
        continues = detector.is_temporal and before >= 0 and int(dataset.index.previous[first]) == before
        found = detector.detect(batch, continues=continues)
        detections |= dict(zip(batch.tokens, found, strict=True))
        before = int(first)
    return detections


def evaluate(config: EvaluateConfig) -> Metrics:
    """Score a model on a split; `<output>` gets the results file and the metrics.

    Raises:
        ValueError: The model or the data can't be read, or the split has nothing to score.
    """
    return _score(config, *_prepare(config))


IN_VIEW = "in_view"  # folder, in that of the official score, of the score of what cameras show


def run_evaluate(config: EvaluateConfig) -> str:
    """Score and describe, or write a submission where there are no annotations; returns the closing text.

    Raises:
        ValueError: As `evaluate`; or there are annotations, but none of a detection class.
    """
    detector, dataset = _prepare(config)
    ignored = int(dataset.index.ignored_boxes.sum())
    if ignored and not len(dataset.index.labels) and not config.submission:
        names = ", ".join(name.decode() for name in dataset.index.ignored_categories[:5])
        raise ValueError(
            f"none of the {ignored} annotations of {config.data.version} is of a detection class; their categories are "
            f"{names}: rename them as in nuScenes, or set submission to true to write results without a score"
        )
    if len(dataset.index.labels) and not config.submission:
        return "\n".join([*_tables(config, detector, dataset), f"results: {config.output}"])
    detections = _detect(config, detector, dataset)
    poses = dataset.index.poses_of(config.split or config.data.val_split)
    path = write_submission(detections, poses, Path(config.output), uses_lidar=detector.uses_lidar)
    reason = (
        "not scored, as asked for" if config.submission else f"{config.data.version} has no annotations to score with"
    )
    return f"{reason}\nsubmission: {path}"


def _prepare(config: EvaluateConfig) -> tuple[Detector, NuScenesDataset]:
    is_plain = config.engine == "torch" and config.precision == "fp32"
    choice = None if is_plain else EngineChoice(engine=config.engine, precision=config.precision, device=config.device)
    detector = load_detector(config.source, config.device, config.mmdet3d, choice)
    if config.in_view and detector.uses_lidar:
        raise ValueError(f"{config.source} sees by LiDAR, so in_view has no cameras to go by; leave it off")
    return detector, detector.dataset(config.data, config.split or config.data.val_split)


def _score(config: EvaluateConfig, detector: Detector, dataset: NuScenesDataset) -> Metrics:
    split = config.split or config.data.val_split
    tables = open_tables(Path(config.data.root), config.data.version, lidar=config.data.lidar)
    check_scorable(tables, split)  # before hours of detection
    detections, poses = _detect(config, detector, dataset), dataset.index.poses_of(split)
    output, uses_lidar = Path(config.output), detector.uses_lidar
    if config.in_view:
        evaluate_detections(
            tables, detections, poses, split, output / IN_VIEW, uses_lidar=uses_lidar, keep=CameraView(dataset)
        )
    return evaluate_detections(tables, detections, poses, split, output, uses_lidar=uses_lidar)


def _tables(config: EvaluateConfig, detector: Detector, dataset: NuScenesDataset) -> list[str]:
    """The official score in words, and that of what cameras show where it is wanted."""
    official = _score(config, detector, dataset).table()
    if not config.in_view:
        return [official]
    shown = Metrics.from_json((Path(config.output) / IN_VIEW / "metrics.json").read_text())
    return [official, "", "only boxes that a camera shows, not the official score:", shown.table(), ""]


def _detect(config: EvaluateConfig, detector: Detector, dataset: NuScenesDataset) -> dict[str, Detections]:
    return detect_split(
        detector,
        dataset,
        batch_size=config.batch_size,
        num_workers=config.num_workers,
        progress=config.progress,
    )

"""Where a student's weights start: a checkpoint, a file of weights, or a bundle, of the same or of a public student."""

import logging
import re
from pathlib import Path

from torch import nn

from bevdistill_ros.inference.bundle import load_bundle
from bevdistill_ros.model.build import architecture_of
from bevdistill_ros.model.student import CameraStudent
from training.weights.backbone import load_matching
from training.weights.checkpoint import load_weights, read_weights
from training.weights.temporal_start import remembering_weights

# What is tied to the axes of the public student's own frame, which is turned by 90 degrees against the ego frame.
_OF_ITS_FRAME = re.compile(
    r"encoder\.(queries|row_position|col_position)|encoder\.layers\.\d+\.self_attention\.sampling_offsets\."
    r"|decoder\.layers\.\d+\.cross_attention\.sampling_offsets\.|decoder\.(selection|position|box_heads)\b"
)
_LOG = logging.getLogger(__name__)


def load_initial_weights(model: nn.Module, source: Path | str) -> None:
    """Fill a model with the weights that a run starts from.

    A bundle of a public BEVFormer (`bevdistill import-weights`) fills what fits of a student of ours by name and shape,
    except what is tied to its own frame; the log says how much. Everything else must fit in full.

    Args:
        model: Filled in place.
        source: A checkpoint, a safetensors file of weights, or the folder of a bundle.

    Raises:
        ValueError: The source can't be read, or does not fit.
    """
    if not Path(source).is_dir():
        load_weights(model, remembering_weights(read_weights(source), model), source)
        return
    student = load_bundle(source).student
    weights = student.state_dict()
    if not isinstance(model, CameraStudent):
        raise ValueError(f"{source} is a bundle, which holds a camera student; a teacher starts from a checkpoint")
    if architecture_of(student.config) == architecture_of(model.config):
        load_weights(model, remembering_weights(weights, model), source)
        return
    free = {name: value for name, value in weights.items() if not _OF_ITS_FRAME.match(name)}
    report = load_matching(model, free)
    _LOG.info("initial weights from %s: %s", source, report.text())

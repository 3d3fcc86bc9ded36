"""The students that there are, by the name of their architecture."""

from bevdistill_ros.model.bevformer import BevFormer
from bevdistill_ros.model.config import StudentConfig
from bevdistill_ros.model.geometry import GeometryFinder
from bevdistill_ros.model.public_bevformer import PublicBevFormer
from bevdistill_ros.model.public_config import PublicStudentConfig
from bevdistill_ros.model.public_geometry import PublicGeometryFinder
from bevdistill_ros.model.student import CameraStudent, StudentSettings

ARCHITECTURES: dict[str, type[StudentConfig] | type[PublicStudentConfig]] = {
    "bevdistill": StudentConfig,
    "public": PublicStudentConfig,
}


def build_student(config: StudentSettings) -> CameraStudent:
    """A student with the settings, its weights at random."""
    match config:
        case PublicStudentConfig():
            return PublicBevFormer(config)
        case StudentConfig():
            return BevFormer(config)


def finder_of(config: StudentSettings) -> GeometryFinder:
    """What computes the geometry of frames for a student with the settings, without its network."""
    match config:
        case PublicStudentConfig():
            return PublicGeometryFinder(config)
        case StudentConfig():
            return GeometryFinder(config.grid, config.num_heights, (config.image_height, config.image_width))


def architecture_of(config: StudentSettings) -> str:
    """The name of a student's architecture."""
    return next(name for name, kind in ARCHITECTURES.items() if isinstance(config, kind))

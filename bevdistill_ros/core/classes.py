"""The ten nuScenes detection classes: their order, evaluation ranges and attributes.

Source: nuScenes detection benchmark, configuration `detection_cvpr_2019`.
"""

CLASS_NAMES: tuple[str, ...] = (
    "car",
    "truck",
    "construction_vehicle",
    "bus",
    "trailer",
    "barrier",
    "motorcycle",
    "bicycle",
    "pedestrian",
    "traffic_cone",
)
NUM_CLASSES = len(CLASS_NAMES)

CLASS_RANGES: dict[str, float] = {  # [m] from the ego origin; objects beyond are not evaluated
    "car": 50.0,
    "truck": 50.0,
    "construction_vehicle": 50.0,
    "bus": 50.0,
    "trailer": 50.0,
    "barrier": 30.0,
    "motorcycle": 40.0,
    "bicycle": 40.0,
    "pedestrian": 40.0,
    "traffic_cone": 30.0,
}

_MOVING_ATTRIBUTES: dict[str, tuple[str, str]] = {  # class: (at rest, in motion)
    "car": ("vehicle.parked", "vehicle.moving"),
    "truck": ("vehicle.parked", "vehicle.moving"),
    "construction_vehicle": ("vehicle.parked", "vehicle.moving"),
    "bus": ("vehicle.parked", "vehicle.moving"),
    "trailer": ("vehicle.parked", "vehicle.moving"),
    "motorcycle": ("cycle.without_rider", "cycle.with_rider"),
    "bicycle": ("cycle.without_rider", "cycle.with_rider"),
    "pedestrian": ("pedestrian.standing", "pedestrian.moving"),
}

MOTION_THRESHOLD = 0.5  # [m/s] above this speed an object counts as moving


def attribute_of(class_name: str, speed: float) -> str:
    """Return the nuScenes attribute that fits a class at a speed [m/s]; empty where the class has none."""
    if class_name not in CLASS_NAMES:
        raise ValueError(f"unknown class '{class_name}'; known classes are {', '.join(CLASS_NAMES)}")
    if class_name not in _MOVING_ATTRIBUTES:
        return ""
    return _MOVING_ATTRIBUTES[class_name][speed > MOTION_THRESHOLD]

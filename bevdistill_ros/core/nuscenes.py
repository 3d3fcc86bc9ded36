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

ERROR_NAMES: dict[str, str] = {  # the devkit's name: what papers write, with an m before it for the mean over classes
    "trans_err": "ATE",  # [m]
    "scale_err": "ASE",  # 1 - IoU
    "orient_err": "AOE",  # [rad]
    "vel_err": "AVE",  # [m/s]
    "attr_err": "AAE",  # 1 - accuracy
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

Colour = tuple[float, float, float]

CLASS_COLOURS: dict[str, Colour] = {  # RGB in [0, 1]; none is green, the colour of ground truth in pictures
    "car": (0.20, 0.60, 1.00),
    "truck": (0.10, 0.35, 0.80),
    "construction_vehicle": (0.90, 0.60, 0.10),
    "bus": (0.45, 0.25, 0.85),
    "trailer": (0.30, 0.75, 0.75),
    "barrier": (0.55, 0.55, 0.55),
    "motorcycle": (0.85, 0.20, 0.60),
    "bicycle": (1.00, 0.45, 0.70),
    "pedestrian": (0.95, 0.25, 0.25),
    "traffic_cone": (1.00, 0.80, 0.10),
}

MOTION_THRESHOLD = 0.5  # [m/s] above this speed an object counts as moving


def attribute_of(class_name: str, speed: float) -> str:
    """Return the nuScenes attribute that fits a class at a speed [m/s]; empty where the class has none."""
    if class_name not in CLASS_NAMES:
        raise ValueError(f"unknown class '{class_name}'; known classes are {', '.join(CLASS_NAMES)}")
    if class_name not in _MOVING_ATTRIBUTES:
        return ""
    return _MOVING_ATTRIBUTES[class_name][speed > MOTION_THRESHOLD]


NUSCENES_CAMERAS: tuple[str, ...] = (
    "CAM_FRONT_LEFT",
    "CAM_FRONT",
    "CAM_FRONT_RIGHT",
    "CAM_BACK_LEFT",
    "CAM_BACK",
    "CAM_BACK_RIGHT",
)

"""Messages of other packages that hold boxes, by their fields; no bag of SQLite carries its own definitions.

Definitions that a bag brings along are not used: they come from anywhere, and would be turned into code.
"""

VISION_ARRAY = "vision_msgs/msg/Detection3DArray"
AUTOWARE_PACKAGES = ("autoware_perception_msgs", "autoware_auto_perception_msgs")
AUTOWARE_KINDS = ("DetectedObjects", "TrackedObjects", "PredictedObjects")
AUTOWARE_LABELS = (  # of ObjectClassification, in the order of its numbers
    "unknown",
    "car",
    "truck",
    "bus",
    "trailer",
    "motorcycle",
    "bicycle",
    "pedestrian",
)

_ARRAY = "std_msgs/Header header\n{package}/{kind}[] {field}\n"
_VISION = {  # since version 4, of Humble
    "ObjectHypothesis": "string class_id\nfloat64 score\n",
    "ObjectHypothesisWithPose": "vision_msgs/ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose\n",
    "BoundingBox3D": "geometry_msgs/Pose center\ngeometry_msgs/Vector3 size\n",
    "Detection3D": (
        "std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\n"
        "vision_msgs/BoundingBox3D bbox\nstring id\n"
    ),
    "Detection3DArray": _ARRAY.format(package="vision_msgs", kind="Detection3D", field="detections"),
}
_AUTOWARE = {
    "ObjectClassification": "uint8 label\nfloat32 probability\n",
    "Shape": "uint8 type\ngeometry_msgs/Polygon footprint\ngeometry_msgs/Vector3 dimensions\n",
    "PredictedPath": "geometry_msgs/Pose[] path\nbuiltin_interfaces/Duration time_step\nfloat32 confidence\n",
    "DetectedObjectKinematics": (
        "geometry_msgs/PoseWithCovariance pose_with_covariance\nbool has_position_covariance\n"
        "uint8 orientation_availability\ngeometry_msgs/TwistWithCovariance twist_with_covariance\n"
        "bool has_twist\nbool has_twist_covariance\n"
    ),
    "TrackedObjectKinematics": (
        "geometry_msgs/PoseWithCovariance pose_with_covariance\nuint8 orientation_availability\n"
        "geometry_msgs/TwistWithCovariance twist_with_covariance\n"
        "geometry_msgs/AccelWithCovariance acceleration_with_covariance\nbool is_stationary\n"
    ),
    "PredictedObjectKinematics": (
        "geometry_msgs/PoseWithCovariance initial_pose_with_covariance\n"
        "geometry_msgs/TwistWithCovariance initial_twist_with_covariance\n"
        "geometry_msgs/AccelWithCovariance initial_acceleration_with_covariance\n"
        "{package}/PredictedPath[] predicted_paths\n"
    ),
    "DetectedObject": "{common}{package}/DetectedObjectKinematics kinematics\n{package}/Shape shape\n",
    "TrackedObject": "{id}{common}{package}/TrackedObjectKinematics kinematics\n{package}/Shape shape\n",
    "PredictedObject": "{id}{common}{package}/PredictedObjectKinematics kinematics\n{package}/Shape shape\n",
}
_ID = "unique_identifier_msgs/UUID object_id\n"
_COMMON = "float32 existence_probability\n{package}/ObjectClassification[] classification\n"


def foreign_definitions() -> dict[str, str]:
    """Definition by the name of the type."""
    found = {f"vision_msgs/msg/{name}": text for name, text in _VISION.items()}
    for package in AUTOWARE_PACKAGES:
        common = _COMMON.format(package=package)
        for name, text in _AUTOWARE.items():
            found[f"{package}/msg/{name}"] = text.format(package=package, common=common, id=_ID)
        for kind in AUTOWARE_KINDS:
            found[f"{package}/msg/{kind}"] = _ARRAY.format(package=package, kind=kind[:-1], field="objects")
    return found

"""Fast DDS: the profile without which bursts of images are lost, and the variable that selects it."""

import os
from pathlib import Path

VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")  # the second until Jazzy
OLDER_DISTRIBUTIONS = ("humble", "iron", "jazzy")


def variable() -> str:
    """The environment variable by which this distribution's Fast DDS finds its profile."""
    return VARIABLES[os.environ.get("ROS_DISTRO") in OLDER_DISTRIBUTIONS]


def our_profile() -> Path:
    """Path of the profile that comes with this package.

    Raises:
        ValueError: It is not there.
    """
    candidates = [Path(__file__).parents[2] / "config" / "dds" / "fastdds.xml"]
    try:
        from ament_index_python.packages import get_package_share_directory

        candidates.append(Path(get_package_share_directory("bevdistill_ros")) / "config" / "dds" / "fastdds.xml")
    except (ImportError, KeyError):  # without ROS; not installed as a package
        pass
    for path in candidates:
        if path.is_file():
            return path
    raise ValueError(f"the Fast DDS profile was not found in {', '.join(map(str, candidates))}; images would be lost")


def transport_environment() -> dict[str, str]:
    """The variable that selects our profile; empty where the user has set one already.

    Raises:
        ValueError: Our profile is not there.
    """
    if any(os.environ.get(name) for name in VARIABLES):
        return {}
    return {variable(): str(our_profile())}

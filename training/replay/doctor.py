"""`bevdistill doctor`: the doctor of the vehicle, and the same checks on a recording.

The doctor goes on the vehicle, where neither this package nor rosbags are; so the recording is read here.
"""

from dataclasses import dataclass
from pathlib import Path

from bevdistill_ros.doctor.command import run_doctor
from bevdistill_ros.doctor.config import DoctorConfig


@dataclass(frozen=True, kw_only=True)
class BagDoctorConfig(DoctorConfig):
    """The doctor's settings, and those for recordings.

    Raises:
        ValueError: A value is not allowed.
    """

    bag: Path | None = None  # recording to check instead of what runs: directory, .mcap or .db3
    suggest: Path | None = None  # new YAML file for the topic map of the recording

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.suggest is not None and self.bag is None:
            raise ValueError("suggest writes the topic map of a recording; give bag")


def run_doctor_command(config: BagDoctorConfig) -> str:
    """Check, write the report to standard output, and return its closing line.

    Raises:
        ValueError: A check failed, or the recording cannot be read.
        ModuleNotFoundError: What reads recordings is missing.
    """
    if config.bag is None:
        return run_doctor(config)
    # Imported here, so that the doctor of a vehicle works without rosbags.
    from training.replay.examine_bag import run_bag_doctor

    return run_bag_doctor(config, config.bag, config.suggest)

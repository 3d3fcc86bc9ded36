"""All checks in their order. What an earlier one finds out, such as the cameras' names, the later ones use.

Packages that may be missing are imported where they are needed, so that the other checks go on without them.
"""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from bevdistill_ros.doctor.config import SECTIONS, DoctorConfig
from bevdistill_ros.doctor.finding import Finding, fail, ok, warn
from bevdistill_ros.doctor.report import Section
from bevdistill_ros.interface.parameters import DetectorParameters

if TYPE_CHECKING:
    import numpy as np

    from bevdistill_ros.core.rig import VehicleRig
    from bevdistill_ros.doctor.checks.rig import CameraView
    from bevdistill_ros.doctor.vehicle import Vehicle
    from bevdistill_ros.inference.bundle import Bundle
    from bevdistill_ros.inference.engine_choice import EngineChoice, Precision

VEHICLE_SECTIONS = {"dds", "topics", "node"}
NOMINAL_BYTES = {"compressed": 150e3, "raw": 1600 * 900 * 3.0}  # of an image, where none has come


class Examination:
    """Checks everything that the node needs.

    Args:
        config: What to look at.
        ros_arguments: ROS arguments for the doctor's own node, such as remappings.
    """

    def __init__(self, config: DoctorConfig, ros_arguments: Sequence[str] = ()) -> None:
        self._config = config
        self._ros_arguments = tuple(ros_arguments)
        self._resources = ExitStack()
        self.picture = ""  # path of the contact sheet, once it is written

    def __enter__(self) -> "Examination":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.close()

    @cached_property
    def wanted(self) -> tuple[str, ...]:
        """Names of the sections, in their order."""
        return tuple(name for name in SECTIONS if not self._config.only or name in self._config.only)

    def section(self, name: str) -> Section:
        """Look at one section."""
        return Section(name=name, findings=tuple(self._findings(name)))

    def _findings(self, name: str) -> list[Finding]:
        """Findings of one section; a check that breaks must not hide the others."""
        try:
            found: list[Finding] = getattr(self, f"_check_{name}")()
        except ModuleNotFoundError as error:
            return [fail(name, f"cannot be checked: {error}", "see the sections packages and ros")]
        except ValueError as error:
            return [fail(name, str(error))]
        except Exception as error:
            return [fail(name, f"the check itself failed: {type(error).__name__}: {error}", "please report this")]
        return found

    def _check_packages(self) -> list[Finding]:
        from bevdistill_ros.doctor.checks.packages import check_packages

        return check_packages()

    def _check_ros(self) -> list[Finding]:
        from bevdistill_ros.doctor.checks.ros import check_ros

        return check_ros()

    def _check_gpu(self) -> list[Finding]:
        from bevdistill_ros.doctor.checks.gpu import check_gpu

        choice = self._choice
        is_torch = choice.engine in ("auto", "torch") and choice.precision != "int8"
        return check_gpu(choice.device, choice.precision if is_torch else None)

    def _check_bundle(self) -> list[Finding]:
        return self._bundle_and_findings[1]

    def _check_dds(self) -> list[Finding]:
        from bevdistill_ros.doctor.checks.dds import check_dds

        vehicle = self._listening
        if vehicle is None:
            return [warn("profile", "without ROS there is no transport to check")]
        image_bytes = vehicle.image_bytes or NOMINAL_BYTES[vehicle.parameters.transport]
        return check_dds(vehicle.rmw, num_cameras=len(self._cameras), image_bytes=image_bytes, environment=os.environ)

    def _check_topics(self) -> list[Finding]:
        vehicle = self._listening
        return vehicle.check_topics() if vehicle else [warn("topics", "without ROS there are no topics to check")]

    def _check_node(self) -> list[Finding]:
        vehicle = self._listening
        return vehicle.check_node() if vehicle else [warn("node", "without ROS there is no node to check")]

    def _check_rig(self) -> list[Finding]:
        from bevdistill_ros.doctor.checks.rig import check_views
        from bevdistill_ros.doctor.checks.training_rig import check_against_training
        from bevdistill_ros.doctor.rig_picture import images_in, save_picture

        views, images = self._views_and_images
        faults = self._rig_and_findings[1]
        if not views:
            if faults:
                return faults
            remedy = "give --rig FILE, or start the cameras with camera_info and tf"
            return [warn("rig", "neither a rig file nor the running cameras give a rig", remedy)]
        findings = [*faults, *check_views(views)]
        bundle = self._bundle
        if bundle is not None:
            manifest = bundle.manifest
            findings += check_against_training(
                views, manifest.rig, manifest.student.images, focal_tolerance=self._focal_tolerance
            )
        if self._config.images is not None:
            images = {**images_in(self._config.images, [view.name for view in views]), **images}
        path = self._config.picture or (Path("rig_check.png") if self._config.rig else None)
        if path is not None:
            self.picture = str(save_picture(path, views, images))
            findings.append(
                ok("picture", f"{self.picture}: the rings must lie on the road, the horizon on the horizon")
            )
        return findings

    @cached_property
    def _vehicle(self) -> "Vehicle | None":
        """The running vehicle; None without ROS, or where nothing that is wanted depends on it."""
        from bevdistill_ros.doctor.checks.ros import has_rclpy

        is_needed = bool(VEHICLE_SECTIONS & set(self.wanted)) or ("rig" in self.wanted and self._config.rig is None)
        if not is_needed or not has_rclpy():
            return None
        from bevdistill_ros.doctor.vehicle import Vehicle

        vehicle = Vehicle(self._config, self._ros_arguments)
        self._resources.callback(vehicle.close)
        return vehicle

    @cached_property
    def _listening(self) -> "Vehicle | None":
        """The vehicle, with the cameras to listen to."""
        if self._vehicle is not None:
            self._vehicle.expect(self._cameras, self._rig)
        return self._vehicle

    @cached_property
    def _parameters(self) -> "DetectorParameters | None":
        """Parameters of the node; None without a vehicle."""
        return self._vehicle.parameters if self._vehicle else None

    @cached_property
    def _cameras(self) -> tuple[str, ...]:
        if self._config.cameras:
            return self._config.cameras
        if self._vehicle is not None and self._vehicle.has_parameters:
            return self._vehicle.parameters.cameras
        bundle, rig = self._bundle, self._rig
        if bundle is not None:
            return bundle.manifest.student.cameras
        if rig is not None:
            return rig.names
        from bevdistill_ros.core.nuscenes import NUSCENES_CAMERAS

        return NUSCENES_CAMERAS

    @property
    def _bundle(self) -> "Bundle | None":
        return self._bundle_and_findings[0]

    @cached_property
    def _bundle_and_findings(self) -> "tuple[Bundle | None, list[Finding]]":
        from bevdistill_ros.doctor.checks.bundle import check_bundle

        path = self._config.bundle or (self._parameters.bundle if self._parameters else "")
        if not path:
            return None, [warn("bundle", "none is given", "give --bundle FOLDER; the node does not start without one")]
        return check_bundle(Path(path), choice=self._choice)

    @property
    def _rig(self) -> "VehicleRig | None":
        return self._rig_and_findings[0]

    @cached_property
    def _rig_and_findings(self) -> "tuple[VehicleRig | None, list[Finding]]":
        """The rig of the rig file, None where there is none or a bad one, and what is wrong with it."""
        from bevdistill_ros.inference.rig_file import load_rig

        path = self._config.rig or (self._parameters.rig_file if self._parameters else "")
        try:
            return load_rig(str(path)) if path else None, []
        except ValueError as error:
            return None, [fail("rig file", str(error), "docs/doctor.md says what a rig file holds")]

    @cached_property
    def _views_and_images(self) -> "tuple[list[CameraView], dict[str, np.ndarray]]":
        """The cameras, of a rig file or live, and their live images."""
        from bevdistill_ros.doctor.checks.rig import views_of

        live = self._listening
        images = live.pictures if live else {}
        if self._rig is not None:
            return views_of(self._rig), images
        return live.views if live else [], images

    @property
    def _device(self) -> str:
        if self._config.device != "node":
            return self._config.device
        return self._parameters.device if self._parameters else "auto"

    @property
    def _precision(self) -> "Precision":
        if self._config.precision != "node":
            return self._config.precision
        return self._parameters.precision if self._parameters else "fp32"

    @property
    def _choice(self) -> "EngineChoice":
        choice = (self._parameters or DetectorParameters()).engine_choice
        if self._config.engine != "node":
            choice = replace(choice, engine=self._config.engine)
        return replace(choice, device=self._device, precision=self._precision)

    @property
    def _focal_tolerance(self) -> float:
        return (self._parameters or DetectorParameters()).diagnostics.focal_tolerance

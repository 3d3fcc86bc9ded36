"""Our detector node around a network that costs nothing: what remains is what the node itself takes.

Called with the height and width of the network's input, and then as the node itself:
`python -m training.benchmark.node.ros.identity_node H W --ros-args …`.
"""

import sys

import torch
from torch import Tensor, nn

from bevdistill_ros.core.nuscenes import NUM_CLASSES, NUSCENES_CAMERAS
from bevdistill_ros.core.rig import CameraRig
from bevdistill_ros.inference.bundle import Bundle
from bevdistill_ros.inference.engine import Engine
from bevdistill_ros.inference.engine_choice import EngineChoice
from bevdistill_ros.inference.manifest import Manifest
from bevdistill_ros.interface.parameters import DetectorParameters
from bevdistill_ros.model.config import StudentConfig
from bevdistill_ros.model.records import SetPrediction, StudentOutput
from bevdistill_ros.node import detector_node, session
from training.synth.rig import nuscenes_cameras

_NUM_QUERIES = 900  # as the paper's student, so that the engine has as much to choose from
_CODE_SIZE = 10


class NoGeometry:
    """The geometry of a network that looks at nothing."""

    def of(self, *inputs: object, **options: object) -> "NoGeometry":
        """Compute nothing."""
        return self

    def to(self, *place: object, **options: object) -> "NoGeometry":
        """Move nothing."""
        return self


class IdentityNetwork(nn.Module):
    """Takes the images of a student, and always sees the same nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.geometry = NoGeometry()
        self._output = StudentOutput(
            bev=torch.zeros(1, 1, 1, 1),
            predictions=SetPrediction(
                logits=torch.full((1, 1, _NUM_QUERIES, NUM_CLASSES), -10.0),
                codes=torch.zeros(1, 1, _NUM_QUERIES, _CODE_SIZE),
                features=torch.zeros(1, 1, _NUM_QUERIES, 1),
            ),
        )

    def network(self, images: Tensor, geometry: NoGeometry, previous_bev: Tensor | None = None) -> StudentOutput:
        """The same answer to all images."""
        return self._output


def make_engine(parameters: DetectorParameters, height: int, width: int) -> Engine:
    """The node's real engine, with the identity network in the place of a student."""
    cameras = nuscenes_cameras(width=width, height=height)
    rig = CameraRig(
        names=NUSCENES_CAMERAS,
        intrinsics=torch.stack([torch.from_numpy(camera.intrinsics) for camera in cameras]),
        ego_from_camera=torch.stack([torch.from_numpy(camera.ego_from_camera) for camera in cameras]),
        image_size=(height, width),
    )
    manifest = Manifest(
        name="identity",
        version="1",
        student=StudentConfig(image_height=height, image_width=width),
        rig=rig,
        weights_file="",
        weights_sha256="",
        provenance={},
    )
    # Not a student, but called as one.
    bundle = Bundle(manifest=manifest, student=IdentityNetwork())  # type: ignore[arg-type]
    return Engine(bundle, EngineChoice(device=parameters.device))


def main() -> None:
    """Run the node."""
    height, width = int(sys.argv[1]), int(sys.argv[2])
    session.make_engine = lambda parameters: make_engine(parameters, height, width)
    detector_node.main(sys.argv)


if __name__ == "__main__":
    main()

"""The shrunk public networks of the parity data as our students."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from bevdistill_ros.core.geometry import transform_from
from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.core.rig import CameraRig
from bevdistill_ros.model.public_bevformer import PublicBevFormer
from bevdistill_ros.model.public_config import PublicStudentConfig
from bevdistill_ros.model.records import CameraInput
from training.weights.public_map import our_weights


class Layout:
    """A layout: settings, frames, weights, inputs and outputs."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.description: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
        self.weights, self.inputs, self.outputs = (
            load_file(folder / f"{name}-{part}.safetensors") for part in ("weights", "inputs", "outputs")
        )

    @property
    def settings(self) -> dict[str, Any]:
        return self.description["settings"]

    @property
    def ego_from_lidar(self) -> np.ndarray:
        entry = self.description
        return transform_from(np.array(entry["lidar2ego_rotation"]), np.array(entry["lidar2ego_translation"]))

    @property
    def padding(self) -> tuple[int, int]:
        """Rows and columns of the network's input without an image [px]."""
        height, width, _ = self.description["frames"]["first"]["unpadded_shape"][0]
        return self.settings["network_image_height"] - height, self.settings["network_image_width"] - width

    def config(self, **changes: Any) -> PublicStudentConfig:
        """The layout's settings; keywords change some."""
        own = self.settings
        x_min, y_min, z_min, x_max, y_max, z_max = own["point_cloud_range"]
        backbone = own["backbone"]
        settings: dict[str, Any] = {
            "model_grid": BevGrid(
                x_min=x_min,
                x_max=x_max,
                y_min=y_min,
                y_max=y_max,
                z_min=z_min,
                z_max=z_max,
                rows=own["bev_rows"],
                cols=own["bev_cols"],
            ),
            "ego_from_model": tuple(self.ego_from_lidar.flatten().tolist()),
            "detection_range": tuple(own["post_center_range"]),
            "cameras": tuple(own["cameras"]),
            "image_height": own["network_image_height"],
            "image_width": own["network_image_width"],
            "padding": self.padding,
            "pixel_offset": (1 - own["image_scale"]) / 2,
            "backbone": f"resnet{backbone['depth']}",
            "backbone_width": backbone["base_channels"],
            "backbone_style": backbone["style"],
            "backbone_deformable_stages": (3, 4) if backbone["dcn"] else (),
            "first_stride": own["level_strides"][0],
            "num_levels": own["image_levels"],
            "embed_dim": own["channels"],
            "num_heads": own["heads"],
            "feedforward_dim": own["feedforward_channels"],
            "encoder_layers": own["encoder_layers"],
            "decoder_layers": own["decoder_layers"],
            "num_queries": own["queries"],
            "memory": "rotate_shift",
        }
        return PublicStudentConfig(**{**settings, **changes})

    def student(self, **changes: Any) -> PublicBevFormer:
        """A student with the layout's weights."""
        config = self.config(**changes)
        model = PublicBevFormer(config).eval()
        weights = our_weights(
            self.weights,
            model.state_dict(),
            config,
            cameras=self.settings["cameras"],
            classes=self.settings["classes"],
            is_caffe=self.settings["backbone"]["style"] == "caffe",
        )
        model.load_state_dict(weights)
        return model

    def rig(self, frame: str) -> CameraRig:
        """The cameras of a frame, for the raw images."""
        entry, own = self.description["frames"][frame], self.settings
        cameras = [entry["cameras"][name] for name in own["cameras"]]
        poses = [self.ego_from_lidar @ np.array(camera["lidar_from_camera"]) for camera in cameras]
        return CameraRig(
            names=tuple(own["cameras"]),
            intrinsics=torch.tensor([camera["intrinsic"] for camera in cameras], dtype=torch.float64),
            ego_from_camera=torch.from_numpy(np.stack(poses)),
            image_size=(own["raw_image_height"], own["raw_image_width"]),
        )

    @cached_property
    def scale_matrix(self) -> Tensor:
        """Change (3, 3) of pixels by the network's image scale, pixel centres at whole numbers."""
        scale = self.settings["image_scale"]
        shift = 0.5 * scale - 0.5
        return torch.tensor([[scale, 0, shift], [0, scale, shift], [0, 0, 1]], dtype=torch.float64)

    def cameras(self, frame: str, images: Tensor | None = None) -> CameraInput:
        """A frame as the student takes it."""
        entry, own, raw = self.description["frames"][frame], self.settings, self.rig(frame)
        size = (own["network_image_height"], own["network_image_width"])
        rig = CameraRig(
            names=raw.names,
            intrinsics=self.scale_matrix @ raw.intrinsics,
            ego_from_camera=raw.ego_from_camera,
            image_size=size,
        )
        pose = transform_from(np.array(entry["ego2global_rotation"]), np.array(entry["ego2global_translation"]))
        if images is None:
            images = torch.zeros(len(raw.names), 3, *size, dtype=torch.uint8)
        return CameraInput(
            images=images[None],
            image_from_ego=rig.image_from_ego().float()[None],
            valid=torch.ones(1, len(raw.names), dtype=torch.bool),
            global_from_ego=torch.from_numpy(pose)[None],
            motion=torch.tensor(entry["can_bus"][7:16], dtype=torch.float32)[None],
        )

    def levels(self, frame: str) -> list[Tensor]:
        """Image features of a frame, as after the pyramid."""
        shown = frame.split("_")[0]
        return [self.inputs[f"{shown}.features.{level}"][0] for level in range(self.settings["image_levels"])]

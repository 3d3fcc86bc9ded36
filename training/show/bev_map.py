"""A BEV feature map as a picture."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from torch import Tensor

from bevdistill_ros.core.boxes import corners_bev
from bevdistill_ros.core.grid import BevGrid

TRUTH_COLOUR = "#00d060"


def strength_of(features: Tensor) -> np.ndarray:
    """Length (rows, cols) of each cell's feature (C, rows, cols) after its channels' means are taken off."""
    centred = features.float() - features.float().mean(dim=(1, 2), keepdim=True)
    return centred.norm(dim=0).cpu().numpy()


def draw_map(axes: Axes, values: np.ndarray, boxes: Tensor, grid: BevGrid, title: str) -> None:
    """A map (rows, cols) from above, x (ahead) up and y (left) left, with the boxes (M, 9) of the ground truth."""
    shown = values.T  # rows along x, columns along y
    extent = (grid.y_min, grid.y_max, grid.x_min, grid.x_max)
    axes.imshow(shown, origin="lower", extent=extent, cmap="magma")
    for corners in corners_bev(boxes):
        closed = np.vstack([corners.numpy(), corners[:1].numpy()])
        axes.plot(closed[:, 1], closed[:, 0], color=TRUTH_COLOUR, linewidth=0.6)
    axes.set(title=title, xlim=(grid.y_max, grid.y_min), ylim=(grid.x_min, grid.x_max), xlabel="y [m]", ylabel="x [m]")


def draw_maps(places: Sequence[Axes], maps: dict[str, Tensor], boxes: Tensor, grid: BevGrid) -> None:
    """Strength of maps (C, rows, cols), by their titles, each in a place."""
    for place, (title, features) in zip(places, maps.items(), strict=True):
        draw_map(place, strength_of(features), boxes, grid, title)

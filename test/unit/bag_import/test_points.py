"""PointCloud2 of any layout."""

from typing import Any

import numpy as np
import pytest

from training.bag import messages
from training.bag_import.points import points_of

STORE = messages.standard_types().types


def cloud(values: np.ndarray, *, height: int = 1, big: bool = False, **changes: Any) -> Any:
    dtype = values.dtype
    codes = {"i1": 1, "u1": 2, "i2": 3, "u2": 4, "i4": 5, "u4": 6, "f4": 7, "f8": 8}
    fields = [
        STORE["sensor_msgs/msg/PointField"](
            name=name, offset=offset, datatype=codes[kind.base.str[1:]], count=max(int(np.prod(kind.shape)), 1)
        )
        for name, (kind, offset, *_) in dtype.fields.items()  # type: ignore[union-attr]
    ]
    step, width = dtype.itemsize, len(values) // height
    given = {"height": height, "width": width, "fields": fields, "is_bigendian": big, "point_step": step,
             "row_step": width * step, "data": values.view(np.uint8).ravel(), "is_dense": True}  # fmt: skip
    return STORE["sensor_msgs/msg/PointCloud2"](header=messages.header(1, "lidar"), **{**given, **changes})


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("place", "intensity", "ring", "time"),
    [("f4", ("intensity", "f4"), ("ring", "u2"), ("time", "f4")),
     ("f8", ("reflectivity", "u2"), ("channel", "u1"), ("t", "u4")),
     ("f4", ("i", "u1"), ("line", "i4"), ("timestamp", "f8")),
     ("f4", ("intensity", "f8"), ("row", "i2"), ("offset", "u4"))],
)  # fmt: skip
def test_layouts_of_drivers(
    order: str, place: str, intensity: tuple[str, str], ring: tuple[str, str], time: tuple[str, str]
) -> None:
    names = ["x", "y", "z", intensity[0], ring[0], time[0]]
    kinds = [order + kind for kind in (place, place, place, intensity[1], ring[1], time[1])]
    values = np.zeros(
        4, np.dtype({"names": names, "formats": kinds, "offsets": [0, 8, 16, 24, 33, 40], "itemsize": 51})
    )
    for column, name in enumerate(names):
        values[name] = np.arange(4) * 10 + column
    points = points_of(cloud(values, big=order == ">"))
    assert points.dtype == np.float32
    np.testing.assert_array_equal(points, [[10 * row + column for column in range(5)] for row in range(4)])


def test_organised_clouds_with_padding_and_without_echoes() -> None:
    values = np.zeros(6, np.dtype([(name, "<f4") for name in "xyz"]))
    values["x"] = [1, np.nan, 3, 4, np.inf, 6]
    data = np.zeros((2, 3 * 12 + 7), np.uint8)
    data[:, :36] = values.view(np.uint8).reshape(2, 36)
    points = points_of(cloud(values, height=2, row_step=43, data=data.ravel()))
    assert points[:, 0].tolist() == [1, 3, 4, 6]
    assert not points[:, 3:].any()
    assert len(points_of(cloud(values, height=2, row_step=43, data=data.ravel()[:-7]))) == 4  # the last row ends early
    assert points_of(cloud(values[:0])).shape == (0, 5)


def test_intensities_are_scaled() -> None:
    values = np.zeros(3, np.dtype([(name, "<f4") for name in ("x", "y", "z", "intensity")]))
    values["intensity"] = [0.5, 2.0, np.nan]
    assert points_of(cloud(values), 1.0)[:, 3].tolist() == [127.5, 255.0, 0.0]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"point_step": 0}, "does not fit"),
        ({"width": 2**31}, "does not fit"),
        ({"height": 2**31, "width": 3, "row_step": 2**31}, "does not fit"),
        ({"data": np.zeros(5, np.uint8)}, "does not fit"),
        ({"fields": []}, "has no field x, y, z"),
        ({"point_step": 4, "row_step": 12}, "does not fit into a point of 4 bytes"),
    ],
)
def test_clouds_that_cannot_be_right(changes: dict[str, Any], reason: str) -> None:
    values = np.zeros(3, np.dtype([(name, "<f4") for name in "xyz"]))
    with pytest.raises(ValueError, match=reason):
        points_of(cloud(values, **changes))

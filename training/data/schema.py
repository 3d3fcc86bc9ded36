"""What every data set in nuScenes format has: categories, attributes, levels of visibility, tokens, chains of rows."""

import hashlib
from collections.abc import Iterable
from typing import Any

Row = dict[str, Any]
Tables = dict[str, list[Row]]

NANOSECONDS_PER_MICROSECOND = 1000
STAMP_NS = "timestamp_ns"  # our own column beside `timestamp` [us], where a stamp is no whole number of microseconds

CATEGORIES: tuple[str, ...] = (
    "human.pedestrian.adult",
    "human.pedestrian.child",
    "human.pedestrian.wheelchair",
    "human.pedestrian.stroller",
    "human.pedestrian.personal_mobility",
    "human.pedestrian.police_officer",
    "human.pedestrian.construction_worker",
    "animal",
    "vehicle.car",
    "vehicle.motorcycle",
    "vehicle.bicycle",
    "vehicle.bus.bendy",
    "vehicle.bus.rigid",
    "vehicle.truck",
    "vehicle.construction",
    "vehicle.emergency.ambulance",
    "vehicle.emergency.police",
    "vehicle.trailer",
    "movable_object.barrier",
    "movable_object.trafficcone",
    "movable_object.pushable_pullable",
    "movable_object.debris",
    "static_object.bicycle_rack",
)
ATTRIBUTES: tuple[str, ...] = (
    "vehicle.moving",
    "vehicle.stopped",
    "vehicle.parked",
    "cycle.with_rider",
    "cycle.without_rider",
    "pedestrian.sitting_lying_down",
    "pedestrian.standing",
    "pedestrian.moving",
)
VISIBILITIES: tuple[tuple[str, float], ...] = (("v0-40", 0.4), ("v40-60", 0.6), ("v60-80", 0.8), ("v80-100", 1.0))
MAP_FILE = "maps/empty.png"


def token_of(*parts: object) -> str:
    """A token that the parts alone decide."""
    return hashlib.md5("/".join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()


def chained(rows: Iterable[Row]) -> list[Row]:
    """The rows with the tokens of their neighbours, empty at the ends."""
    listed = list(rows)
    tokens = ["", *(row["token"] for row in listed), ""]
    return [{**row, "prev": tokens[number], "next": tokens[number + 2]} for number, row in enumerate(listed)]


def named_rows() -> Tables:
    """The tables of categories, attributes and visibilities, which are the same in every data set of ours."""
    return {
        "category": [{"token": token_of("category", name), "name": name, "description": ""} for name in CATEGORIES],
        "attribute": [{"token": token_of("attribute", name), "name": name, "description": ""} for name in ATTRIBUTES],
        "visibility": [
            {"token": str(number + 1), "level": level, "description": f"at most {limit:.0%} of it can be seen"}
            for number, (level, limit) in enumerate(VISIBILITIES)
        ],
    }


def stamp_columns(stamp_ns: int) -> Row:
    """The columns that hold a stamp [ns]: the schema's microseconds, and ours where these lose something."""
    stamp = {"timestamp": stamp_ns // NANOSECONDS_PER_MICROSECOND}
    return stamp if stamp_ns % NANOSECONDS_PER_MICROSECOND == 0 else {**stamp, STAMP_NS: stamp_ns}


def stamp_ns_of(row: Row) -> int:
    """Stamp [ns] of a row: that of our own column, where it has one that agrees with the schema's."""
    stamp_ns = int(row["timestamp"]) * NANOSECONDS_PER_MICROSECOND
    exact = int(row.get(STAMP_NS, stamp_ns))
    return exact if 0 <= exact - stamp_ns < NANOSECONDS_PER_MICROSECOND else stamp_ns


CATEGORY_OF_CLASS: dict[str, str] = {  # which category stands for a detection class where no finer one is known
    "car": "vehicle.car",
    "truck": "vehicle.truck",
    "construction_vehicle": "vehicle.construction",
    "bus": "vehicle.bus.rigid",
    "trailer": "vehicle.trailer",
    "barrier": "movable_object.barrier",
    "motorcycle": "vehicle.motorcycle",
    "bicycle": "vehicle.bicycle",
    "pedestrian": "human.pedestrian.adult",
    "traffic_cone": "movable_object.trafficcone",
}

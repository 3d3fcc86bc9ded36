"""Distortion models as drivers and calibration tools name them, read as their author meant them where that is certain.

All are polynomials of OpenCV: coefficients that are 0 at the end, or left out there, do no harm.
"""

import numpy as np

from bevdistill_ros.core.text import quote

MODELS: dict[str, tuple[int, ...]] = {  # model of sensor_msgs: how many coefficients it may have
    "plumb_bob": (4, 5),
    "rational_polynomial": (8, 12, 14),
    "equidistant": (4,),
}
_ALIASES = {
    "radtan": "plumb_bob",  # Kalibr
    "radial_tangential": "plumb_bob",
    "brown_conrady": "plumb_bob",
    "plumbbob": "plumb_bob",
    "rational": "rational_polynomial",
    "fisheye": "equidistant",  # image_pipeline
    "equi": "equidistant",  # Kalibr
    "kannala_brandt": "equidistant",
    "kannala_brandt4": "equidistant",
    "opencv_fisheye": "equidistant",
}
MAX_COEFFICIENTS = 100  # that are looked at: some drivers fill up with zeros
_STRAIGHT = ("none", "pinhole", "perspective", "rectilinear", "no_distortion")
_OPENCV_COUNTS = {5: "plumb_bob", 8: "rational_polynomial", 12: "rational_polynomial", 14: "rational_polynomial"}
_REMEDY = f"name one of {', '.join(MODELS)} with its coefficients, or publish rectified images and set images_rectified"


def lens_of(name: str, coefficients: np.ndarray) -> tuple[str, np.ndarray | None]:
    """Model of sensor_msgs, and coefficients (D,) float64 in its order; None for a straight lens.

    Args:
        name: The model as it is named; case, and `-` for `_`, do not matter.
        coefficients: (D,) as they are given.

    Raises:
        ValueError: A coefficient is not finite, or what is meant is not certain.
    """
    if len(coefficients) > MAX_COEFFICIENTS:
        raise ValueError(f"lens distortion has {len(coefficients)} coefficients, but no model more than 14; {_REMEDY}")
    if not np.isfinite(coefficients).all():
        raise ValueError(f"lens distortion is not finite: {quote(coefficients[:MAX_COEFFICIENTS].tolist())}")
    plain = name.strip().lower().replace("-", "_").replace(" ", "_")
    model = _ALIASES.get(plain, plain)
    used = int(np.flatnonzero(coefficients).max(initial=-1)) + 1
    # An equidistant lens is not straight, whatever its coefficients: they only correct it.
    if model == "equidistant":
        return model, _fitted(model, coefficients, used)
    if not used and model in ("", *_STRAIGHT, *MODELS):
        return "", None
    if not model and len(coefficients) in _OPENCV_COUNTS:
        model = _OPENCV_COUNTS[len(coefficients)]
    if model not in MODELS:
        given = f"{quote(name)} with {len(coefficients)} coefficients"
        raise ValueError(f"distortion model is {given}, which can mean several lenses; {_REMEDY}")
    if model == "rational_polynomial" and used <= 5:
        model = "plumb_bob"  # the first five coefficients are the same
    return model, _fitted(model, coefficients, used)


def _fitted(model: str, coefficients: np.ndarray, used: int) -> np.ndarray:
    """Coefficients of a number that the model may have."""
    if len(coefficients) in MODELS[model]:
        return coefficients
    count = next((count for count in MODELS[model] if count >= used), None)
    if count is None or (model == "plumb_bob" and used == 3):  # is the last one p1 or k3?
        allowed = " or ".join(map(str, MODELS[model]))
        raise ValueError(f"{model} needs {allowed} coefficients, but has {len(coefficients)}; {_REMEDY}")
    fitted = np.zeros(count)
    fitted[:used] = coefficients[:used]
    return fitted

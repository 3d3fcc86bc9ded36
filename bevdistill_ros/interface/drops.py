"""Why a set of images is not used: the words of PipelineStatus.drop_reason, /diagnostics and the log."""

from collections.abc import Iterable

BUSY = "worker busy"  # a newer set took its place; cameras may well be faster than the model
CLOCK_WENT_BACK = "clock went back"
QUEUE_FULL = "synchroniser queue full"


def missing(cameras: Iterable[str]) -> str:
    """No image of these cameras came in time."""
    return f"missing {', '.join(cameras)}"


def unusable(cameras: Iterable[str]) -> str:
    """The images of these cameras cannot be used."""
    return f"unusable {', '.join(cameras)}"


def spread(spread_ms: float, cameras: Iterable[str] = ()) -> str:
    """The stamps of the set differ by too much, because of these cameras where it is known."""
    names = f" ({', '.join(cameras)})" if cameras else ""
    return f"spread of {spread_ms:.0f} ms above sync.max_spread_ms{names}"


def failed(error: Exception) -> str:
    """Work on the set ended with an error of ours."""
    return f"failed: {type(error).__name__}"

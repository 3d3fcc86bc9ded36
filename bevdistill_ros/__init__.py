import os

__path__ = __import__("pkgutil").extend_path(__path__, __name__)

_SPIN_COUNT = "3000"  # some microseconds, the time of a small operation

# Read when torch is loaded, so set before: by default, OpenMP threads spin at the barrier of each operation until the
# next one comes, and stand still themselves as soon as another process wants their core.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)


def wait_as_in_the_node() -> None:
    """Let OpenMP's threads sleep at barriers, before torch is loaded; what the user set is kept.

    A vehicle's computer has other work: threads that spin would take the cores from decoding and the middleware.
    """
    if os.environ["GOMP_SPINCOUNT"] == _SPIN_COUNT:
        os.environ["GOMP_SPINCOUNT"] = "0"

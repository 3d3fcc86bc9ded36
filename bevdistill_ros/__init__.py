import os

__path__ = __import__("pkgutil").extend_path(__path__, __name__)

SPIN_COUNT = "3000"  # some microseconds, the time of a small operation; the node takes 0, see its __init__.py

# Read when torch is loaded, so set before: by default, OpenMP threads spin at the barrier of each operation until the
# next one comes, and stand still themselves as soon as another process wants their core.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)

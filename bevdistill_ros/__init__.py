import os

__path__ = __import__("pkgutil").extend_path(__path__, __name__)

# Read when torch is loaded, so set before: OpenMP threads that spin at the barrier of each small operation take the
# cores from decoding and the middleware, and stand still themselves as soon as another process wants a core.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

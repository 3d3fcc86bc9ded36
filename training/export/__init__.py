"""From a checkpoint to the bundle that the node runs: weights, exported networks, int8."""

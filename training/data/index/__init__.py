"""Tables of a data set, read once and kept as arrays."""

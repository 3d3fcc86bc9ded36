"""The processes of the benchmarks that talk ROS 2; everything beside this package starts them and needs none."""

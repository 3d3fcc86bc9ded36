"""Files and folders that appear complete or not at all."""

import errno
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bevdistill_ros.core import files
from bevdistill_ros.core.files import atomic_file, atomic_folder, write_whole

Atomic = Callable[[Path], AbstractContextManager[Path]]
TENSORS = {"a": torch.zeros(30_000)}


@pytest.fixture(params=[0o022, 0o027])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_is_replaced_when_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    write_whole(path, "old")
    with atomic_file(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("atomic", [atomic_file, atomic_folder])
@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, RuntimeError])
def test_a_block_that_fails_leaves_things_as_they_were(
    tmp_path: Path, atomic: Atomic, kind: type[BaseException]
) -> None:
    def block() -> None:
        with atomic(tmp_path / "thing") as partial:
            (partial / "x" if partial.is_dir() else partial).write_text("half")
            raise kind("own words")

    with pytest.raises(kind, match="own words"):
        block()
    assert not list(tmp_path.iterdir())


def test_what_is_written_is_readable_as_the_umask_says(tmp_path: Path, umask: int) -> None:
    with atomic_file(tmp_path / "a.safetensors") as partial:
        save_file(TENSORS, partial)
    with atomic_folder(tmp_path / "folder") as partial:
        save_file(TENSORS, partial / "a.safetensors")
        (partial / "inside").mkdir(mode=0o700)
        (partial / "inside" / "b").touch(mode=0o600)
    for path in ("a.safetensors", "folder/a.safetensors", "folder/inside/b"):
        assert mode_of(tmp_path / path) == 0o666 & ~umask
    for path in ("folder", "folder/inside"):
        assert mode_of(tmp_path / path) == 0o777 & ~umask


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(bytes(100_000)),
        lambda path: save_file(TENSORS, path),
        lambda path: torch.save(TENSORS, path.open("wb")),
        lambda path: np.savez(path.open("wb"), a=np.random.default_rng(0).random(20_000)),
    ],
    ids=["python", "safetensors", "torch", "numpy"],
)
@pytest.mark.parametrize("atomic", [atomic_file, atomic_folder])
@pytest.mark.usefixtures("small_files")
def test_a_full_disk_is_one_line_and_leaves_nothing(
    tmp_path: Path, write: Callable[[Path], object], atomic: Atomic
) -> None:
    def block() -> None:
        with atomic(tmp_path / "thing") as partial:
            write(partial / "x" if partial.is_dir() else partial)

    with pytest.raises(OSError, match=r"^cannot write .*/thing: File too large; free space") as caught:
        block()
    assert caught.value.errno == errno.EFBIG
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for atomic in (atomic_file, atomic_folder):
        with pytest.raises(OSError, match=r"^cannot write .*/file/below: "), atomic(tmp_path / "file" / "below"):
            pytest.fail("the block must not run")


def test_an_error_of_reading_elsewhere_keeps_its_words(tmp_path: Path) -> None:
    error = PermissionError(errno.EACCES, "Permission denied", "/elsewhere/image.jpg")
    with pytest.raises(PermissionError, match="elsewhere"), atomic_folder(tmp_path / "folder"):
        raise error


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_takes_the_place_of_another(
    tmp_path: Path, can_exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not can_exchange:
        monkeypatch.setattr(files, "_RENAME_EXCHANGE", 1 << 20)  # flags that no kernel knows
    for content in ("old", "new"):
        with atomic_folder(tmp_path / "folder") as partial:
            (partial / content).write_text(content)
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("num_renames", [1, 2])
def test_a_kill_between_the_steps_of_an_exchange_is_mended_by_the_next(
    tmp_path: Path, num_renames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the file system can't exchange names: the folder is gone, or the old one is left."""
    program = f"""
import os, signal
from pathlib import Path
from bevdistill_ros.core import files
files._RENAME_EXCHANGE, done, rename = 1 << 20, [], os.rename
def rename_or_die(*names):
    rename(*names)
    done.append(names)
    if len(done) == {num_renames}:
        os.kill(os.getpid(), signal.SIGKILL)
os.rename = rename_or_die
with files.atomic_folder(Path({str(tmp_path / "thing")!r})) as partial:
    (partial / "killed").touch()
"""
    (tmp_path / "thing").mkdir()
    (tmp_path / "thing" / "old").touch()
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -signal.SIGKILL
    assert (tmp_path / ".thing.partial.old" / "old").exists()
    monkeypatch.setattr(files, "_RENAME_EXCHANGE", 1 << 20)
    for content in ("next", "last"):
        with atomic_folder(tmp_path / "thing") as partial:
            (partial / content).touch()
    assert [path.name for path in (tmp_path / "thing").iterdir()] == ["last"]
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


@pytest.mark.parametrize("atomic", [atomic_file, atomic_folder])
def test_two_writers_of_one_name_do_not_meet(tmp_path: Path, atomic: Atomic) -> None:
    with atomic(tmp_path / "thing") as outer, atomic(tmp_path / "thing") as inner:
        assert outer != inner
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


@pytest.mark.parametrize("atomic", ["atomic_file", "atomic_folder"])
def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path, atomic: str) -> None:
    program = f"""
import os, signal
from pathlib import Path
from bevdistill_ros.core.files import {atomic}
with {atomic}(Path({str(tmp_path / "thing")!r})) as partial:
    (partial / "inside" if partial.is_dir() else partial).write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == [".thing.partial"]
    with getattr(files, atomic)(tmp_path / "thing") as partial:
        assert not (list(partial.iterdir()) if partial.is_dir() else partial.read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


def test_a_link_that_has_the_name_of_a_leftover_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    (tmp_path / ".thing.partial").symlink_to(tmp_path / "mine")
    with atomic_folder(tmp_path / "thing"):
        pass
    assert (tmp_path / "mine" / "file").exists()

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from training.data.sample import collate
from training.run.config import TrainConfig
from training.run.data import train_dataset
from training.run.fit import build_module, fit
from training.run.module import StudentTraining
from training.teacher.cache import CachedTeacher, cache_folder
from training.teacher.load import load_teacher
from training.teacher.output import Tap
from training.weights.checkpoint import read_checkpoint

MakeRun = Callable[..., TrainConfig]
BOTH: tuple[Tap, ...] = ("finest", "encoded")
HEATMAP = {"teacher.query_selection": "heatmap", "criterion.heatmap": 1.0}


def distilled(tiny_teacher: Path, **changes: object) -> dict[str, object]:
    return {"distill.method": "bevdistill", "teacher_checkpoint": str(tiny_teacher), **changes}


def test_memory_says_what_the_teacher_says(make_run: MakeRun, tiny_teacher: Path, tmp_path: Path) -> None:
    config, teacher = load_teacher(tiny_teacher)
    dataset = train_dataset(make_run(tmp_path / "run", **distilled(tiny_teacher)))
    batch = collate([dataset[0], dataset[2]])
    cached = CachedTeacher(teacher, tmp_path / "memory", config.grid, BOTH)
    said, first, again = teacher.of(batch), cached.of(batch), cached.of(batch)
    assert len(list((tmp_path / "memory").iterdir())) == 2
    for one, two in ((said, first), (first, again)):
        exact = one is first
        assert one.encoded is not None
        assert two.encoded is not None
        assert one.predictions is not None
        assert two.predictions is not None
        for a, b in ((one.map_of("finest"), two.map_of("finest")), (one.encoded, two.encoded)):
            assert torch.allclose(a, b, atol=0 if exact else 2e-3 * float(a.abs().max()))
        for name in ("codes", "features", "logits"):  # of the last layer
            last, kept = getattr(one.predictions, name)[-1:], getattr(two.predictions, name)
            assert torch.allclose(last, kept, atol=0 if exact else 1e-4)


def test_teacher_is_not_asked_again(make_run: MakeRun, tiny_teacher: Path, tmp_path: Path) -> None:
    config, teacher = load_teacher(tiny_teacher)
    dataset = train_dataset(make_run(tmp_path / "run", **distilled(tiny_teacher)))
    cached = CachedTeacher(teacher, tmp_path / "memory", config.grid, BOTH)
    cached.of(collate([dataset[0]]))
    cached.module.register_forward_pre_hook(lambda *_: pytest.fail("asked again"))
    assert cached.of(collate([dataset[0]])).map_of("finest").shape[0] == 1


def test_data_that_was_written_anew_is_asked_anew(make_run: MakeRun, tiny_teacher: Path, tmp_path: Path) -> None:
    config, teacher = load_teacher(tiny_teacher)
    dataset = train_dataset(make_run(tmp_path / "run", **distilled(tiny_teacher)))
    cached = CachedTeacher(teacher, tmp_path / "memory", config.grid, BOTH)
    batch = collate([dataset[0]])
    fewer = replace(batch, points=tuple(points[::4] for points in batch.points))
    cached.of(batch)
    assert torch.allclose(cached.of(fewer).map_of("finest"), teacher.of(fewer).map_of("finest"), atol=1e-2)
    assert not torch.allclose(cached.of(fewer).map_of("finest"), cached.of(batch).map_of("finest"), atol=1e-2)


def test_a_run_that_finds_the_memory_learns_the_same(make_run: MakeRun, tiny_teacher: Path, tmp_path: Path) -> None:
    changes = distilled(tiny_teacher, **{"run.teacher_cache": str(tmp_path / "memory")})
    one, two = (read_checkpoint(fit(make_run(tmp_path / name, **changes)))["state_dict"] for name in ("one", "two"))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_memory_belongs_to_its_teacher_and_data(tiny_teacher: Path, tiny_student: Path, tmp_path: Path) -> None:
    folders = {
        cache_folder(tmp_path, checkpoint, *facts)
        for checkpoint in (tiny_teacher, tiny_student)
        for facts in (("v1.0-tiny", 1), ("v1.0-tiny", 2))
    }
    assert len(folders) == 4


def test_memory_is_refused_where_points_are_turned(make_run: MakeRun, tiny_teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"set augment.bev to null"):
        make_run(
            tmp_path / "run",
            **distilled(tiny_teacher, **{"run.teacher_cache": "x", "augment.bev": {"rotation": 0.1}}),
        )


def test_student_starts_the_same_with_and_without_a_teacher(
    make_run: MakeRun, tiny_teacher: Path, tmp_path: Path
) -> None:
    models = []
    for changes in ({}, distilled(tiny_teacher, **{"distill.inherit": "none"})):
        torch.manual_seed(3)
        module = build_module(make_run(tmp_path / "run", **changes))
        assert isinstance(module, StudentTraining)
        models.append(module.model.state_dict())
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())


@pytest.mark.parametrize("damage", ["short", "flipped", "other"])
def test_a_damaged_file_is_made_again(
    make_run: MakeRun, tiny_teacher: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    config, teacher = load_teacher(tiny_teacher)
    dataset = train_dataset(make_run(tmp_path / "run", **distilled(tiny_teacher)))
    cached = CachedTeacher(teacher, tmp_path / "memory", config.grid, BOTH)
    batch = collate([dataset[0]])
    expected = cached.of(batch)
    (file,) = (tmp_path / "memory").iterdir()
    content = bytearray(file.read_bytes())
    if damage == "other":
        save_file({"finest": torch.zeros(1, 2, 8, 8)}, file)
    else:
        content[-7] ^= 16
        file.write_bytes(content if damage == "flipped" else content[:200])
    for _ in range(2):
        assert torch.equal(cached.of(batch).map_of("finest"), expected.map_of("finest"))
    assert caplog.text.count(f"{file} is damaged; the teacher runs again") == 1


def test_a_full_disk_keeps_no_frame_and_is_reported_once(
    make_run: MakeRun, tiny_teacher: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, small_files: None
) -> None:
    config, teacher = load_teacher(tiny_teacher)
    dataset = train_dataset(make_run(tmp_path / "run", **distilled(tiny_teacher)))
    cached = CachedTeacher(teacher, tmp_path / "memory", config.grid, BOTH)
    assert len([cached.of(collate([dataset[index]])) for index in (0, 1)]) == 2
    assert caplog.text.count("the teacher runs again for frames that are not kept: cannot write") == 1
    assert not list((tmp_path / "memory").iterdir())


@pytest.mark.parametrize(
    ("method", "expected"),
    [("set2set", set()), ("bevdistill_sparse", set()), ("fitnet", {"auto"}), ("bevdistill", {"auto"})],
)
def test_maps_that_no_method_reads_are_not_kept(
    method: str, expected: set[Tap], make_run: MakeRun, tiny_teacher: Path, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", **{**distilled(tiny_teacher), "distill.method": method})
    assert run.distill.taps() == expected
    config, teacher = load_teacher(tiny_teacher)
    cached = CachedTeacher(teacher, tmp_path / "memory", config.grid, run.distill.taps())
    batch = collate([train_dataset(run)[0]])
    cached.of(batch)
    said = cached.of(batch)
    assert (said.encoded is not None, said.finest) == ("auto" in expected, None)
    assert said.predictions is not None
    assert len(said.predictions.codes) == 1


def test_the_heatmap_that_chose_the_queries_is_kept_to_the_last_bit(make_run: MakeRun, tmp_path: Path) -> None:
    checkpoint = fit(make_run(tmp_path / "teacher", role="teacher", **HEATMAP))
    config, teacher = load_teacher(checkpoint)
    dataset = train_dataset(make_run(tmp_path / "run", **distilled(checkpoint)))
    batch = collate([dataset[0], dataset[2]])
    cached = CachedTeacher(teacher, tmp_path / "memory", config.grid, ())
    for _ in range(2):
        kept = cached.of(batch)
        assert kept.finest is None
        assert kept.encoded is None
        assert kept.predictions is not None
        assert kept.predictions.heatmap is not None
        said = teacher.of(batch).predictions
        assert said is not None
        assert said.heatmap is not None
        assert torch.allclose(kept.predictions.heatmap, said.heatmap, atol=1e-4)
        assert kept.predictions.heatmap.dtype == torch.float32

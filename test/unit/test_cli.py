import importlib
from pathlib import Path

import pytest

from training.cli import entry
from training.cli.commands import COMMANDS, main

REQUIRED = {
    "evaluate": ["--source=x"],
    "export": ["--checkpoint=x", "--output=y"],
    "replay": ["--bundle=x", "--output=y", "--bags=[z]"],
    "show": ["--source=x"],
}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def assert_mistake(capsys: pytest.CaptureFixture[str], arguments: list[str], *parts: str, status: int = 2) -> None:
    """One line on standard error, the right status, and nothing on standard output or on disk."""
    assert main(arguments) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("bevdistill: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    for part in parts:
        assert part in err
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_overview_lists_all_commands(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out and command.summary in out for name, command in COMMANDS.items())


@pytest.mark.parametrize("command", COMMANDS)
def test_help_describes_every_setting(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert main([*command.split(), "--help"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(
        f"usage: bevdistill {command} [--config FILE] [--KEY VALUE ...]\n\n{COMMANDS[command].summary}"
    )
    assert "<class" not in out
    assert max(map(len, out.splitlines())) <= 120
    assert err == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_print_config_shows_a_configuration_that_is_taken(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    assert main([*command.split(), *REQUIRED.get(command, []), "--print_config"]) == 0
    shown = capsys.readouterr().out
    (tmp_path / "shown.yaml").write_text(shown)
    assert main([*command.split(), "--config=shown.yaml", "--print_config"]) == 0
    assert capsys.readouterr().out == shown


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_function(command: str) -> None:
    module = importlib.import_module(COMMANDS[command].module)
    assert callable(getattr(module, COMMANDS[command].function))


def test_unknown_command_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert_mistake(capsys, ["tran"], "unknown command 'tran'; did you mean 'train'?")
    assert_mistake(capsys, ["xyzzy"], "unknown command 'xyzzy' (bevdistill --help lists the commands)")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--optim.stesp=3"], "unknown setting 'optim.stesp'; did you mean 'optim.steps'?"),
        (["train", "--optim.steps=many"], "optim.steps must be a whole number, but is many"),
        (["train", "--optim.steps=0"], "optim.steps must be at least 1, but is 0"),
        (["train", "--run.log_every=0"], "run.log_every must be at least 1, but is 0"),
        (["train", "--distill.method=bevdist"], "distill.method must be one of none, fitnet"),
        (["train", "--distill.method=fitnet"], "distill.method fitnet needs a teacher: set teacher_checkpoint"),
        (["train", "--role=teacher", "--distill.method=fitnet"], "a teacher is not distilled"),
        (["train", "stray"], "stray"),
        (["train", "--config=none.yaml"], "there is no configuration file none.yaml"),
        (["evaluate"], "missing settings: source"),
        (["evaluate", "--source=x", "--batch_size=0"], "batch_size must be at least 1"),
        (["export"], "missing settings: checkpoint, output"),
        (["replay", "--bundle=x", "--output=y"], "nothing to replay"),
        (["replay", "--bundle=x", "--output=y", "--bags=[z]", "--rate=0"], "rate must be above 0"),
        (["show", "--source=x", "--frames=0"], "frames must be at least 1"),
        (["synth", "--jpeg_quality=0"], "jpeg_quality must be in 1...100"),
        (["bench", "--steps=0"], "steps and frames must be at least 1"),
        (["demo", "--seed=x"], "seed must be a whole number, but is x"),
    ],
)
def test_wrong_setting_is_one_line_and_status_two(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert_mistake(capsys, arguments, message, f"(bevdistill {arguments[0]} --help lists the settings)")


def test_interruption_is_told_with_its_own_status(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(config: object) -> str:
        raise KeyboardInterrupt("last.ckpt is saved")

    monkeypatch.setattr("training.run.fit.run_train", interrupted)
    assert_mistake(capsys, ["train"], "interrupted; last.ckpt is saved", status=130)


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("DataLoader worker (pid(s) 71) exited unexpectedly", "lower run.num_workers"),
        ("DataLoader worker (pid 71) is killed by signal: Killed. ", "lower run.num_workers"),
        (
            "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are "
            "out of shared memory. Please try to raise your shared memory limit.",
            "/dev/shm",
        ),
        ("CUDA out of memory. Tried to allocate 2.00 GiB", "lower optim.batch_size"),
        (
            "[/pytorch/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:35",
            "another process of",
        ),
        ("NCCL error in: ProcessGroupNCCL.cpp:2251, remote process exited", "another process of the run"),
    ],
)
def test_errors_that_users_meet_are_one_line_with_the_remedy(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, text: str, meaning: str
) -> None:
    def failing(config: object) -> str:
        raise RuntimeError(text)

    monkeypatch.setattr("training.run.fit.run_train", failing)
    assert_mistake(capsys, ["train"], meaning, status=1)


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(config: object) -> str:
        raise RuntimeError("The size of tensor a (3) must match the size of tensor b (4)")

    monkeypatch.setattr("training.run.fit.run_train", failing)
    with pytest.raises(RuntimeError, match="size of tensor"):
        main(["train"])


def test_reason_of_a_data_loading_process_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failed(config: object) -> str:
        text = (
            "Caught ValueError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File\n"
        )
        raise ValueError(f"{text}ValueError: image a.jpg is cut off; copy it again")

    monkeypatch.setattr("training.run.fit.run_train", failed)
    assert_mistake(capsys, ["train"], "bevdistill: image a.jpg is cut off; copy it again\n", status=1)


def test_without_the_packages_for_training_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> object:
        raise ModuleNotFoundError("No module named 'jsonargparse.core'", name="jsonargparse.core")

    monkeypatch.setattr(entry, "import_module", missing)
    assert entry.main() == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "jsonargparse is not installed: pip install 'bevdistill_ros[training]'" in said

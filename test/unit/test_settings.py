from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from training.cli.settings import settings_from
from training.run.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part."""

    width: float = 1.5  # [m] across
    low: int = 0
    high: int = 9

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"low must be at most high, but they are {self.low} and {self.high}")


@dataclass(frozen=True, kw_only=True)
class Whole:
    """All of it."""

    name: str  # of the thing
    mode: Literal["fast", "exact"] = "fast"  # how it works
    part: Part = field(default_factory=Part)
    extra: Part | None = None  # off without it
    root: Path = Path("here")
    sizes: tuple[int, ...] = (1, 2)  # of the layers
    flag: bool = False
    free: dict[str, Any] = field(default_factory=dict)  # whatever you like
    cache: Path | None = None  # null keeps nothing


def parsed(*arguments: str) -> Whole:
    return settings_from(Whole, ["--name=thing", *arguments])


def test_defaults_are_those_of_the_dataclass() -> None:
    assert parsed() == Whole(name="thing")


def test_types_are_those_of_the_fields(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("part: {low: 3}\nextra: {}\nroot: a/b\nsizes: [4]\nfree: {deep: {key: 1}}\ncache: c\n")
    found = parsed("--config", str(file), "--part.width", "2", "--flag=true")
    assert found == Whole(
        name="thing",
        part=Part(low=3, width=2.0),
        extra=Part(),
        root=Path("a/b"),
        sizes=(4,),
        flag=True,
        free={"deep": {"key": 1}},
        cache=Path("c"),
    )
    assert isinstance(found.part.width, float)


def test_flag_alone_means_true() -> None:
    assert parsed("--flag").flag
    assert parsed("--flag", "--part.low=3") == Whole(name="thing", flag=True, part=Part(low=3))
    assert not parsed("--flag=true", "--flag=false").flag


def test_last_word_counts(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("part: {low: 3}\n")
    assert parsed("--part.low=5", f"--config={file}").part.low == 3
    assert parsed(f"--config={file}", "--part.low=5").part.low == 5


@pytest.mark.parametrize(
    "arguments", [["--extra={}"], ["--extra", "{width: 1.5}"], ["--extra.width", "1.5"], ["--extra.width=1.5"]]
)
def test_optional_part_is_switched_on(arguments: list[str]) -> None:
    assert parsed(*arguments).extra == Part()
    assert parsed(*arguments, "--extra=null").extra is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nam=x"], "unknown setting 'nam'; did you mean 'name'?"),
        (["--part.lwo", "3"], "unknown setting 'part.lwo'; did you mean 'part.low'?"),
        (["--width=3"], "unknown setting 'width'; did you mean 'part.width'?"),
        (["--part.wid", "3"], "unknown setting 'part.wid'; did you mean 'part.width'?"),
        (["--extra.lowe=3"], "unknown setting 'extra.lowe'; did you mean 'extra.low'?"),
        (["--part", "{hihg: 3}"], "unknown setting 'part.hihg'; did you mean 'part.high'?"),
        (["--xyzzy=3"], "unknown setting 'xyzzy'"),
        (["--part.low", "x"], "part.low must be a whole number, but is x"),
        (["--part.low=1.5"], "part.low must be a whole number, but is 1.5"),
        (["--part.low="], "part.low must be a whole number, but is empty"),
        (["--part=3"], "part must be a mapping, but is 3"),
        (["--extra.width=x"], "extra.width must be a number, but is x"),
        (["--mode=slow"], "mode must be one of fast, exact, but is slow"),
        (["--flag=perhaps"], "flag must be true or false, but is perhaps"),
        (["--sizes=3"], "sizes must be a list like [A, B], but is 3"),
        (["--part.low=10"], "low must be at most high, but they are 10 and 9"),
        (["--extra.low=10"], "low must be at most high, but they are 10 and 9"),
        (["--part.low"], "argument --part.low: expected one argument"),
        (["--config=none.yaml"], "there is no configuration file none.yaml"),
    ],
)
def test_mistake_is_told_in_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=r".+") as error:
        parsed(*arguments)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("part: {hihg: 3}", "unknown setting 'part.hihg'; did you mean 'part.high'?"),
        ("extra: {hihg: 3}", "unknown setting 'extra.hihg'; did you mean 'extra.high'?"),
        ("part: 3", "part must map settings to values, but is 3"),
        ("just words", "the file must map settings to values, but is 'just words'"),
        ("part: [1", " is not YAML: expected ',' or ']', but got '<stream end>' in line 1"),
    ],
)
def test_mistake_in_a_file_names_the_file(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=r".+") as error:
        parsed("--config", str(file))
    assert str(error.value).replace(str(file), "").removeprefix(": ") == message
    assert str(file) in str(error.value)


def test_missing_setting_is_named() -> None:
    with pytest.raises(ValueError, match="missing settings: name"):
        settings_from(Whole, [])


def test_help_tells_comment_default_and_choices(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        settings_from(Whole, ["--help"], program="tool", summary="does things")
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for line in (
        "usage: tool [--config FILE] [--KEY VALUE ...]",
        "does things",
        "--name TEXT of the thing (required)",
        "--mode VALUE how it works (one of fast, exact; default: fast)",
        "--part.width FLOAT [m] across (default: 1.5)",
        "--extra VALUE off without it ({} or extra.width, extra.low, extra.high; default: null)",
        "--sizes [A,B,...] of the layers (default: [1, 2])",
        "--flag [BOOL] (default: false)",
        "--cache PATH null keeps nothing (default: null)",
    ):
        assert line in lines


def test_print_config_shows_all_and_can_be_read_again(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        parsed("--part.low=3", "--extra={}", "--print_config")
    file = tmp_path / "settings.yaml"
    file.write_text(capsys.readouterr().out)
    assert settings_from(Whole, ["--config", str(file)]) == parsed("--part.low=3", "--extra={}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("role: student\x00\n", "is not YAML: .*special characters are not allowed"),
        ("student: " + "[" * 5000, "nested deeper than 30 levels in line 1"),
        ("optim: {steps: !!timestamp 99}", "has .99. in line 1, which is no timestamp"),
        ("optim:\n  steps: 2026-99-99", "has .2026-99-99. in line 2, which is no timestamp"),
        ("optim: {learning_rate: 1" + "0" * 400 + "}", "too large|must be a number"),
        ("a: &a [lol, lol]\nstudent: [*a, *a]", r"has the alias '\*a' in line 2; write its value there"),
        ("settings: &s {x: *s}", "has the alias"),
        ("student: [" + "lol, " * 1000 + "]", "student must map settings to values"),
        ("role: " + "x" * 1_000_001, "is larger than 1 MB"),
    ],
)
def test_a_hostile_configuration_is_one_short_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=words) as caught:
        settings_from(TrainConfig, ["--config", str(path)])
    assert len(str(caught.value)) < 800
    assert "\n" not in str(caught.value)

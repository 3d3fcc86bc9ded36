"""Settings dataclasses on the command line and in YAML: options, help from field comments, one line per mistake."""

import ast
import dataclasses
import difflib
import inspect
import io
import json
import re
import textwrap
import tokenize
import types
from argparse import SUPPRESS, Action
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter, Namespace

from bevdistill_ros.core.files import read_text
from bevdistill_ros.core.text import quote

T = TypeVar("T")
MAX_CONFIG_BYTES = 1_000_000
MAX_DEPTH = 30  # levels of mappings and lists
_QUOTED = 200  # characters of what a message quotes
_OWN_OPTIONS = ("help", "config", "print_config")


def settings_from(
    kind: type[T], arguments: Sequence[str], *, program: str = "bevdistill", summary: str | None = None
) -> T:
    """Settings from a command line: `--config FILE`, then `--key value` or `--key=value`; the last one counts.

    Args:
        kind: The settings dataclass; its fields are the keys, those of nested dataclasses with dots.
        arguments: The words of the command line.
        program: Shown by `--help`, as is the summary.
        summary: What the program does.

    Raises:
        ValueError: A key is unknown, or a value is of the wrong type or does not fit the others; in one line.
        SystemExit: After `--help` and `--print_config`.
    """
    hints = dict(_hints_of(kind))
    _check_keys(arguments, hints)
    parser = _Parser(
        prog=program,
        usage="%(prog)s [--config FILE] [--KEY VALUE ...]",
        description=summary,
        formatter_class=_HelpFormatter,
    )
    parser.add_argument("--config", action="config", metavar="FILE", help="YAML with differences from the defaults")
    parser.add_class_arguments(kind, fail_untyped=True)
    for action in parser._actions:
        if hints.get(action.dest) is bool:  # the word alone means true
            action.nargs, action.const = "?", True
    if {"-h", "--help"} & set(arguments):
        _describe(parser, kind, hints)
    try:
        values = vars(parser.instantiate(parser.parse_args(list(arguments))))
        return kind(**{name: values[name] for name in _field_names(kind)})
    except OverflowError as error:
        raise ValueError(f"a number is too large: {error}") from error
    except (ArgumentError, ValueError, TypeError) as error:
        raise ValueError(_mistake(str(error), hints)) from error


def words_of(settings: Mapping[str, Any]) -> list[str]:
    """Command-line words of settings by name, as `settings_from` takes them."""
    return [
        f"--{name}={value if isinstance(value, str) else json.dumps(value, default=str)}"
        for name, value in settings.items()
    ]


def nearest(word: str, known: Sequence[str]) -> str:
    """A closing question with the known word that is most like a mistaken one; empty where none is like it."""
    same_end = [name for name in known if name.rsplit(".", 1)[-1] == word.rsplit(".", 1)[-1]]
    close = difflib.get_close_matches(word, same_end or known, n=1, cutoff=0.3 if same_end else 0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


class _Parser(ArgumentParser):
    """Raises instead of exiting, so that every mistake is reported in one place."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise ArgumentError(None, message)


class _HelpFormatter(DefaultHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=48, width=120)

    def _get_help_string(self, action: Action) -> str:
        return action.help or ""


def _field_names(kind: type) -> list[str]:
    return [entry.name for entry in dataclasses.fields(kind)]


def _nested(hint: Any) -> type | None:
    """The dataclass that a field holds, be it optional; None for other fields."""
    found = [entry for entry in (hint, *get_args(hint)) if isinstance(entry, type) and dataclasses.is_dataclass(entry)]
    return found[0] if found else None


def _hints_of(kind: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All keys, with dots, and their types; a dataclass comes before what it holds."""
    hints = get_type_hints(kind)
    for name in _field_names(kind):
        yield prefix + name, hints[name]
        nested = _nested(hints[name])
        if nested is not None:
            yield from _hints_of(nested, f"{prefix}{name}.")


def _check_keys(arguments: Sequence[str], hints: Mapping[str, Any]) -> None:
    """Raise ValueError for the first unknown key of a command line, or of a configuration file that it names."""
    for place, word in enumerate(arguments):
        if not word.startswith("--"):
            continue
        key, _, text = word[2:].partition("=")
        value = text if "=" in word else "".join(arguments[place + 1 : place + 2])
        if key == "config" and value:
            path = Path(value)
            _check_mapping(_read_yaml(path), hints, "", f"{path}: ")
        elif key not in _OWN_OPTIONS:
            _check_key(key.removesuffix("+"), hints, "")
            if value.startswith("{"):
                _check_mapping(_yaml_of(value, f"the value of {key}"), hints, f"{key}.", "")


def _check_mapping(content: object, hints: Mapping[str, Any], prefix: str, where: str) -> None:
    if content is None and not prefix:  # an empty file
        return
    if not isinstance(content, Mapping):
        name, given = prefix.rstrip(".") or "the file", repr(content)[:_QUOTED]
        raise ValueError(f"{where}{name} must map settings to values, but is {given}")
    for name, value in content.items():
        key = f"{prefix}{name}"
        _check_key(key, hints, where)
        hint = hints.get(key)
        if _nested(hint) is not None and not (value is None and type(None) in get_args(hint)):
            _check_mapping(value, hints, f"{key}.", where)


def _check_key(key: str, hints: Mapping[str, Any], where: str) -> None:
    parents = [key[: place.start()] for place in re.finditer(r"\.", key)]
    if key not in hints and not any(get_origin(hints.get(parent)) is dict for parent in (key, *parents)):
        raise ValueError(f"{where}unknown setting '{key}'{nearest(key, list(hints))}")


def _read_yaml(path: Path) -> object:
    if not path.exists():
        raise ValueError(f"there is no configuration file {path}")
    return _yaml_of(read_text(path, what="configuration file", max_bytes=MAX_CONFIG_BYTES), str(path))


def _yaml_of(text: str, name: str) -> object:
    """Content of YAML text without aliases, which make gigabytes of a few lines, and not deeper than settings are.

    Raises:
        ValueError: It is not such YAML, or a value in it can't be read.
    """
    try:
        _check_structure(text, name)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        return None if node is None else _value_of(node, name)
    except yaml.MarkedYAMLError as error:
        place = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{name} is not YAML: {error.problem}{place}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{name} is not YAML: {' '.join(str(error).split())[:_QUOTED]}") from error


def _check_structure(text: str, name: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 0
        if isinstance(event, yaml.AliasEvent):
            alias = str(event.anchor)[:40]
            raise ValueError(f"{name} has the alias '*{alias}' in line {line}; write its value there")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError(f"{name} is nested deeper than {MAX_DEPTH} levels in line {line}")


def _value_of(node: yaml.Node, name: str) -> object:
    """The value of a document; a scalar that its type does not allow, such as the date 2026-99-99, is named."""
    try:
        return yaml.SafeLoader("").construct_document(node)
    except (AttributeError, TypeError, OverflowError, ValueError) as error:
        for scalar in _scalars_of(node):
            try:
                yaml.SafeLoader("").construct_document(scalar)
            except (AttributeError, TypeError, OverflowError, ValueError):
                line = scalar.start_mark.line + 1
                value, kind = quote(scalar.value, _QUOTED), scalar.tag.rpartition(":")[2]
                raise ValueError(f"{name} has {value} in line {line}, which is no {kind}") from error
        raise ValueError(f"{name} has a value that can't be read: {str(error)[:_QUOTED]}") from error


def _scalars_of(node: yaml.Node) -> Iterator[yaml.ScalarNode]:
    if isinstance(node, yaml.ScalarNode):
        yield node
    elif isinstance(node, yaml.SequenceNode):
        for entry in node.value:
            yield from _scalars_of(entry)
    elif isinstance(node, yaml.MappingNode):
        for pair in node.value:
            for entry in pair:
                yield from _scalars_of(entry)


def _mistake(message: str, hints: Mapping[str, Any]) -> str:
    """The parser's message about a value as one line that says what is allowed."""
    line = " ".join(message.split())
    if missing := re.search(r"arguments are required: (.+)", line):
        return f"missing settings: {missing[1]}"
    key = ".".join(re.findall(r'[Kk]ey "([\w.]+)"', line))
    if key in hints and (value := re.search(r"Got value: ?(.*?)(?: - |$)", line)):
        return f"{key} must be {_words_for(hints[key])}, but is {value[1] or 'empty'}"
    if value := re.search(r'key "([\w.]+)": Unable to load config \'(.*?)\'', line):
        return f"{value[1]} must be a mapping, but is {value[2]}"
    if own := re.search(r"Errors: - (?:Problem with given class_path '[^']*': )?(.+?) - Expected", line):
        return own[1]  # the rule of an optional dataclass
    return re.sub(r'^Parser key "([\w.]+)": ', r"\1: ", line)


def _words_for(hint: Any) -> str:
    """What a value of a type looks like."""
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_words_for(entry) for entry in get_args(hint))
    if get_origin(hint) is tuple:
        return "a list like [A, B]"
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
    return words.get(hint, "null" if hint is type(None) else "a mapping")


def _describe(parser: ArgumentParser, kind: type, hints: Mapping[str, Any]) -> None:
    """Give every option the comment of its field, its default, and a placeholder for its value."""
    comments = dict(_comments_of(kind))
    defaults = parser.get_defaults()
    for action in parser._actions:
        hint = hints.get(action.dest)
        if hint is None:
            action.help = SUPPRESS if action.dest.endswith(".help") else action.help
            continue
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            action.help = SUPPRESS
            continue
        default = "required" if action.required else f"default: {_shown(defaults.get(action.dest))}"
        choices = f"{_words_for(hint)}; " if get_origin(hint) is Literal else ""
        nested = _nested(hint)
        if nested is not None:
            choices = f"{{}} or {', '.join(f'{action.dest}.{name}' for name in _field_names(nested))}; "
        comment = comments.get(action.dest, "")
        action.help = f"{comment} ({choices}{default})".replace("%", "%%").strip()
        action.metavar = _placeholder(hint)


def _placeholder(hint: Any) -> str:
    hint = next((entry for entry in get_args(hint) if get_origin(hint) in (Union, types.UnionType)), hint)
    if get_origin(hint) is tuple:
        return "[A,B,...]"
    if get_origin(hint) is dict:
        return "{KEY:VALUE,...}"
    return {bool: "BOOL", int: "INT", float: "FLOAT", Path: "PATH", str: "TEXT"}.get(hint, "VALUE")


def _shown(value: object) -> str:
    if isinstance(value, Namespace):  # an optional group that is on
        return "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(str, value))}]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value) or "empty"


def _comments_of(kind: type, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Comments that stand behind the fields, by key."""
    for base in kind.__bases__:
        if dataclasses.is_dataclass(base):
            yield from _comments_of(base, prefix)
    source = textwrap.dedent(inspect.getsource(kind))
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    definition = ast.parse(source).body[0]
    assert isinstance(definition, ast.ClassDef)
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            yield prefix + node.target.id, " ".join(comments[line] for line in lines if line in comments)
    hints = get_type_hints(kind)
    for name in _field_names(kind):
        nested = _nested(hints[name])
        if nested is not None:
            yield from _comments_of(nested, f"{prefix}{name}.")

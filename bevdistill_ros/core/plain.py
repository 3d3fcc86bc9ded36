"""Dataclasses as plain values, as JSON and YAML hold them, and back."""

import dataclasses
import difflib
import types
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


def plain_from(value: Any) -> Any:
    """A configuration dataclass as plain dicts, lists and scalars, for JSON."""
    if dataclasses.is_dataclass(value):
        return {field.name: plain_from(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return [plain_from(entry) for entry in value] if isinstance(value, tuple) else value


def dataclass_from(kind: type[T], content: object, where: str) -> T:
    """Inverse of `plain_from`: every key must be there, none may be too many, and types must fit.

    Args:
        kind: The dataclass.
        content: The plain dict.
        where: Its name in error messages.
    """
    fields = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    hints = get_type_hints(kind)
    checked = check_keys(content, fields, where)
    return kind(**{name: value_from(hints[name], checked[name], f"{where}.{name}") for name in fields})


def check_keys(content: object, expected: list[str], where: str) -> dict[str, Any]:
    """Return `content` if it is a dict with exactly the expected keys; a ValueError names what is wrong."""
    if not isinstance(content, dict):
        raise ValueError(f"{where} must be a mapping with {', '.join(expected)}, but is {content!r}")
    missing = [key for key in expected if key not in content]
    for key in content:
        if key not in expected:
            near = difflib.get_close_matches(str(key), missing or expected, n=1)
            raise ValueError(f"{where} has an unknown key '{key}'" + (f"; did you mean '{near[0]}'?" if near else ""))
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}")
    return content


def value_from(hint: Any, value: Any, where: str) -> Any:
    """A plain value as the type that a field declares."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return dataclass_from(hint, value, where)
    origin = get_origin(hint)
    if origin is Literal:
        allowed = get_args(hint)
        if value not in allowed:
            raise ValueError(f"{where} must be one of {', '.join(map(str, allowed))}, but is {value!r}")
        return value
    if origin is tuple and isinstance(value, list):
        return tuple(value_from(get_args(hint)[0], entry, f"{where}[{index}]") for index, entry in enumerate(value))
    if hint is float and type(value) is int:
        return float(value)
    if isinstance(hint, type) and not isinstance(hint, types.GenericAlias) and type(value) is hint:
        return value
    raise ValueError(f"{where} must be of type {getattr(hint, '__name__', hint)}, but is {value!r}")


def check_at_least(config: object, part: str, least: float, *names: str) -> None:
    """Check fields of a configuration against a lower bound; a ValueError names the one that is below it."""
    for name in names:
        if getattr(config, name) < least:
            raise ValueError(f"{part}.{name} must be at least {least}, but is {getattr(config, name)}")

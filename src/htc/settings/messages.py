"""Error messages for a configuration: all faults at once, each with the source of the value, the fault and the nearest
name.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from htc.settings.names import Path, fields_at, is_section, nearest

Sources = Sequence[tuple[Path, str]]


def describe(error: ValidationError, values: Mapping[str, Any], sources: Sources) -> str:
    """Format validation errors: one line per fault, with a heading if there are several."""
    return listed([_line(details, values, sources) for details in error.errors(include_url=False)])


def listed(lines: Sequence[str]) -> str:
    """Join the faults into one message."""
    if len(lines) == 1:
        return lines[0]
    return f"{len(lines)} settings cannot be used:\n" + "\n".join(f"  {line}" for line in lines)


def faults_alone(path: Path, value: object) -> list[str]:
    """Faults of a single setting that no other setting can change: an unknown name, or a value that no variant
    accepts.
    """
    fields = fields_at(path)
    if not fields:
        return [f"there is no such setting{nearest_hint(path)}"]
    faults: list[str] = []
    for field in () if is_section(path) else fields:
        faults = _value_faults(field, value)
        if not faults:
            break
    if faults and path[-1] == "kind":
        return [f"there is no kind {value!r}, only {_kinds(path[:-1])}"]
    return faults


def _value_faults(field: FieldInfo, value: object) -> list[str]:
    kind: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    try:
        TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False)).validate_python(value)
    except ValidationError as error:
        return [_fault(details, (), {}) for details in error.errors(include_url=False)]
    return []


def nearest_hint(path: Path, values: Mapping[str, Any] | None = None) -> str:
    """`; did you mean ...?` or, if no name is similar, how to list all settings."""
    name = nearest(path, values)
    return f"; did you mean {name}?" if name else "; --print-config lists all settings"


def _line(details: ErrorDetails, values: Mapping[str, Any], sources: Sources) -> str:
    location = _without_tags(details["loc"], values)
    path = tuple(part for part in location if isinstance(part, str))
    if details["type"] == "union_tag_invalid":
        path = (*path, "kind")
    given, source = _origin(path, details["msg"], sources)
    if details["type"] == "extra_forbidden":
        path = given
    return f"{source}: {_fault(details, path, values)}"


def _fault(details: ErrorDetails, path: Path, values: Mapping[str, Any]) -> str:
    kind, given = details["type"], details["input"]
    if kind == "extra_forbidden":
        owner = ".".join(path[:-1])
        return (
            f"does not belong to this kind of {owner}"
            if fields_at(path)
            else f"there is no such setting{nearest_hint(path, values)}"
        )
    if kind == "missing":
        return "a value is missing"
    if kind in ("model_type", "model_attributes_type"):
        return f"is a section, not a value (got {given!r}): set {'.'.join(path)}.<name>"
    if kind == "union_tag_invalid":
        return f"there is no kind {given.get('kind')!r}, only {details.get('ctx', {}).get('expected_tags', '')}"
    if kind == "union_tag_not_found":
        return f"the kind is missing: set {'.'.join(path)}.kind to one of {_kinds(path)}"
    if kind == "tuple_type":
        return f"must be a list of values: write [{given}]"
    if kind == "value_error":
        return details["msg"].removeprefix("Value error, ")
    return f"{details['msg'].replace('Input should', 'should', 1)} (got {given!r})"


def _kinds(section: Path) -> str:
    """Names of a section's variants."""
    return ", ".join(repr(field.default) for field in fields_at((*section, "kind")))


def _without_tags(location: tuple[int | str, ...], values: Mapping[str, Any]) -> tuple[int | str, ...]:
    """Remove the variants of unions from pydantic's locations (neck, fpn, channels), since users do not write them."""
    kept: list[int | str] = []
    node: object = values
    for part in location:
        if isinstance(node, Mapping) and part not in node and part == node.get("kind"):
            continue
        kept.append(part)
        if isinstance(node, Mapping):
            node = node.get(str(part))
        elif isinstance(node, (list, tuple)) and isinstance(part, int):
            node = node[part] if part < len(node) else None
    return tuple(kept)


def _origin(path: Path, message: str, sources: Sources) -> tuple[Path, str]:
    """Find the setting that caused an error: the last one at that path, else above or below it, else anywhere; of
    several, one that the message mentions.

    The last two cases are values that are inconsistent with each other.
    """
    exact = [setting for setting in sources if setting[0] == path]
    related = [
        (setting_path, source)
        for setting_path, source in sources
        if path and (setting_path[: len(path)] == path or path[: len(setting_path)] == setting_path)
    ]
    mentioned = [
        (setting_path, source)
        for setting_path, source in related
        if any(name in message for name in setting_path[len(path) :])
    ]
    named = [
        (setting_path, source) for setting_path, source in sources if not path and ".".join(setting_path) in message
    ]
    for candidates in (exact, mentioned, related, named):
        if candidates:
            return candidates[-1]
    return path, ".".join(path) or "the settings together"

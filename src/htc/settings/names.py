"""Names of the settings: which exist, which are similar to a misspelled one, and which types they accept."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from types import NoneType
from typing import get_args

from pydantic.fields import FieldInfo

from htc.config import Config, Section
from htc.config.base import sections_of

Path = tuple[str, ...]


def fields_at(path: Path, model: type[Section] = Config) -> list[FieldInfo]:
    """Fields at that path, one for each variant that has it; empty if there is no such setting."""
    if not path or path[0] not in model.model_fields:
        return []
    field = model.model_fields[path[0]]
    if len(path) == 1:
        return [field]
    return [inner for section in sections_of(field.annotation) for inner in fields_at(path[1:], section)]


def current_path(path: Path, model: type[Section] = Config) -> Path:
    """Rename old field names in the path to the current ones; unknown names are not changed."""
    if not path:
        return path
    name = model.renamed_fields.get(path[0], path[0])
    sections = sections_of(model.model_fields[name].annotation) if name in model.model_fields else []
    inner = (current_path(path[1:], section) for section in sections)
    return (name, *next((candidate for candidate in inner if candidate != path[1:]), path[1:]))


def is_section(path: Path) -> bool:
    """Test whether that path has further settings below it."""
    return any(sections_of(field.annotation) for field in fields_at(path))


def accepts(path: Path, kind: type) -> bool:
    """Test whether the setting accepts a value of exactly that type (bool, NoneType)."""
    return any(kind is field.annotation or kind in _parts(field.annotation) for field in fields_at(path))


def _parts(annotation: object) -> Iterator[object]:
    for part in get_args(annotation):
        yield part
        yield from _parts(part)


def all_names(model: type[Section] = Config, prefix: str = "") -> list[str]:
    """All dotted names, sections included, of all variants of unions."""
    names: dict[str, None] = {}
    for name, field in model.model_fields.items():
        names[prefix + name] = None
        for section in sections_of(field.annotation):
            names.update(dict.fromkeys(all_names(section, f"{prefix}{name}.")))
    return list(names)


def nearest(path: Path, values: Mapping[str, object] | None = None) -> str | None:
    """The existing setting most similar to that path: in its section, else by the whole name, else by the last word
    anywhere.

    `values` is the current configuration: settings of other variants of a union are then not suggested.
    """
    names = [name for name in all_names() if values is None or _present(name, values)]
    section, wanted = ".".join(path[:-1]), path[-1]
    siblings = {name.rpartition(".")[2]: name for name in names if name.rpartition(".")[0] == section}
    last_words = {name.rpartition(".")[2]: name for name in reversed(names)}
    close = [siblings[word] for word in get_close_matches(wanted, siblings, n=1)]
    if not siblings:
        close += get_close_matches(".".join(path), names, n=1, cutoff=0.75)
    close += [last_words[word] for word in get_close_matches(wanted, last_words, n=1, cutoff=0.75)]
    return close[0] if close else None


def _present(name: str, values: Mapping[str, object]) -> bool:
    node: object = values
    *parents, last = name.split(".")
    for parent in parents:
        node = node.get(parent) if isinstance(node, Mapping) else None
    if not isinstance(node, Mapping):
        return False
    kind = node.get("kind")
    variants = sections_of(fields_at(tuple(parents))[0].annotation) if parents else [Config]
    chosen = [v for v in variants if "kind" not in v.model_fields or v.model_fields["kind"].default == kind]
    return any(last in variant.model_fields for variant in chosen)


def allows_none(path: Path) -> bool:
    """Test whether `none` means None for this setting (and not the word, as in `semantic_fusion: none`)."""
    return accepts(path, NoneType)

"""Configuration in layers: preset < `--config FILE` < `HTC_*` environment < flags; values are laid over each other,
then checked once.

A later layer changes only what it names. Changing a `kind` replaces the whole variant, since the fields of one mean
nothing to another. The settings stay a list with their sources until they are laid over something: a preset, or a
checkpoint's own configuration.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

import yaml
from pydantic import ValidationError

from htc import presets
from htc.config import Config, Section
from htc.config.base import warn_of_old_name
from htc.errors import ConfigError
from htc.settings.messages import describe, faults_alone, listed
from htc.settings.names import Path, accepts, allows_none, current_path, is_section

ENVIRONMENT_PREFIX = "HTC_"
CUSTOM = "custom"


@dataclass(frozen=True)
class Setting:
    """One value a user gave: where it goes, and where it came from (`--cascade.ious`, `HTC_CASCADE__IOUS`,
    `own.yaml: cascade.ious`).
    """

    path: Path
    value: object
    source: str


def _named(path: Path, source: str) -> Path:
    """The path with current names; `RenamedWarning` for an old one."""
    current = current_path(path)
    for old, new in zip(path, current, strict=True):
        if old != new:
            warn_of_old_name(source, old, new)
    return current


def from_values(values: Mapping[str, Any], source: str = "overrides") -> list[Setting]:
    """Settings of nested values, as read from a file or given in Python."""
    found: list[Setting] = []

    def visit(node: Mapping[str, Any], path: Path) -> None:
        for key, value in node.items():
            here = (*path, str(key).replace("-", "_"))
            if isinstance(value, Mapping) and value:
                visit(value, here)
            else:
                named = f"{source}: {'.'.join(here)}"
                here = _named(here, named)
                found.append(Setting(here, _fitted(value, here), named))

    visit(values, ())
    return _kinds_first(found)


def from_file(path: str | FilePath) -> list[Setting]:
    """Settings of a YAML or JSON file; raises `ConfigError` if it cannot be read or is not a mapping."""
    try:
        values = yaml.safe_load(FilePath(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"--config {path}: there is no such file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"--config {path}: is not text; give a YAML or JSON file") from None
    except OSError as error:
        raise ConfigError(f"--config {path}: cannot be read ({error.strerror}); give a YAML or JSON file") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"--config {path}: is not YAML: {' '.join(str(error).split())}") from None
    if values is None:
        return []
    if not isinstance(values, Mapping):
        raise ConfigError(
            f"--config {path}: must hold sections and values, such as\n  cascade:\n    interleaved: false"
        )
    return from_values(values, str(path))


def from_environment(environment: Mapping[str, str]) -> list[Setting]:
    """Settings of `HTC_SECTION__NAME=value` variables. Empty ones and `HTC_` variables that name no section
    (HTC_CACHE) are left alone.
    """
    found = []
    for name, text in sorted(environment.items()):
        section, *names = name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        if name.startswith(ENVIRONMENT_PREFIX) and text and (names or section in Config.model_fields):
            path = _named((section, *names), name)
            found.append(Setting(path, parsed(text, path), name))
    return _kinds_first(found)


def from_flags(flags: Iterable[tuple[str, str]]) -> list[Setting]:
    """Settings of (`cascade.mask-flow`, `false`) pairs; values are written as in YAML, tuples also as `0.5,0.6,0.7`."""
    found = []
    for name, text in flags:
        path = _named(tuple(name.replace("-", "_").split(".")), f"--{name}")
        found.append(Setting(path, parsed(text, path), f"--{name}"))
    return _kinds_first(found)


def gather(
    file: str | FilePath | None, environment: Mapping[str, str], flags: Iterable[tuple[str, str]]
) -> list[Setting]:
    """All that the user set, lowest layer first."""
    return [*(from_file(file) if file is not None else []), *from_environment(environment), *from_flags(flags)]


def parsed(text: str, path: Path) -> object:
    """The value of a flag or variable, read as YAML; what is not YAML stays text, and the check names it."""
    try:
        value = yaml.safe_load(text)
        if isinstance(value, str) and "," in value:
            value = yaml.safe_load(f"[{text}]")
    except yaml.YAMLError:
        return text
    return _fitted(value, path)


def _fitted(value: object, path: Path) -> object:
    """`none` where a value may be absent; a boolean where no boolean belongs becomes a word, which no number
    accepts.
    """
    if isinstance(value, str) and value.lower() == "none" and allows_none(path):
        return None
    if isinstance(value, bool) and not accepts(path, bool):
        return str(value).lower()
    return value


def _kinds_first(settings: list[Setting]) -> list[Setting]:
    """Within a layer the kind of a variant comes before its fields, in whatever order they were written."""
    return sorted(settings, key=lambda setting: setting.path[-1] != "kind")


def nested(settings: Sequence[Setting]) -> dict[str, Any]:
    """The settings alone as nested values, a later one over an earlier one."""
    values: dict[str, Any] = {}
    for setting in settings:
        _put(values, setting)
    return values


def _put(values: dict[str, Any], setting: Setting) -> None:
    *parents, last = setting.path
    node = values
    for parent in parents:
        if not isinstance(node.get(parent), dict):
            node[parent] = {}
        node = node[parent]
    if last == "kind" and node.get("kind") != setting.value:
        node.clear()
    if setting.value == {} and is_section(setting.path) and isinstance(node.get(last), dict):
        return
    node[last] = setting.value


def resolve(settings: Sequence[Setting], default_preset: str) -> Config:
    """The configuration of the preset that the settings name (or of the default), with the settings laid over it.

    Raises `ConfigError` with every fault at once. `preset: custom` starts from the defaults of `htc.config`.
    """
    named = [setting for setting in settings if setting.path == ("preset",)]
    name = str(named[-1].value) if named else default_preset
    if name == CUSTOM:
        return _checked({"preset": CUSTOM, **_defaults()}, settings)
    try:
        base = presets.preset(name)
    except ConfigError as error:
        raise ConfigError(f"{named[-1].source}: {error}" if named else str(error)) from None
    return _checked(base.model_dump(), settings)


def _defaults() -> dict[str, Any]:
    """The sections a configuration has without being told: each with its kind, so that a field of it can be set
    alone.
    """
    return {
        name: field.default.model_dump()
        for name, field in Config.model_fields.items()
        if isinstance(field.default, Section)
    }


def overlay(base: Config, settings: Sequence[Setting]) -> Config:
    """`base` (a checkpoint's own configuration) with the settings laid over it; raises `ConfigError` with every
    fault at once.
    """
    for setting in settings:
        if setting.path == ("preset",) and setting.value != base.preset:
            raise ConfigError(f"{setting.source}: the preset is {setting.value}, but this model is {base.preset}")
    return _checked(base.model_dump(), settings) if settings else base


def _checked(values: dict[str, Any], settings: Sequence[Setting]) -> Config:
    for setting in settings:
        _put(values, setting)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        sources = [(setting.path, setting.source) for setting in settings]
        raise ConfigError(describe(error, values, sources)) from None


def to_yaml(config: Config) -> str:
    """The whole configuration as YAML that `--config` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, default_flow_style=None, width=150)


def check_alone(settings: Sequence[Setting]) -> None:
    """Refuse names that no configuration has and values that none takes, before any model is known; `ConfigError`
    with all of them.
    """
    faults = [
        f"{setting.source}: {fault}" for setting in settings for fault in faults_alone(setting.path, setting.value)
    ]
    if faults:
        raise ConfigError(listed(faults))


def names_preset(settings: Sequence[Setting]) -> bool:
    """Whether any setting names the preset."""
    return any(setting.path == ("preset",) for setting in settings)

"""Configuration in layers: preset < `--config FILE` < `HTC_*` environment < flags; merged, then validated once.

A later layer changes only the settings that it contains. Changing a `kind` replaces the whole variant, since variants
have different fields. Settings are a list with their sources until they are applied to a preset or to a checkpoint's
configuration.
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
    """One value set by the user: its path, the value, and its source (`--cascade.ious`, `HTC_CASCADE__IOUS`, `own.yaml:
    cascade.ious`).
    """

    path: Path
    value: object
    source: str


def _named(path: Path, source: str) -> Path:
    """Rename old field names in the path to the current ones, with a `RenamedWarning`."""
    current = current_path(path)
    for old, new in zip(path, current, strict=True):
        if old != new:
            warn_of_old_name(source, old, new)
    return current


def from_values(values: Mapping[str, Any], source: str = "overrides") -> list[Setting]:
    """Settings from nested values, as read from a file or given in Python."""
    settings: list[Setting] = []

    def visit(node: Mapping[str, Any], path: Path) -> None:
        for key, value in node.items():
            full_path = (*path, str(key).replace("-", "_"))
            if isinstance(value, Mapping) and value:
                visit(value, full_path)
            else:
                setting_source = f"{source}: {'.'.join(full_path)}"
                full_path = _named(full_path, setting_source)
                settings.append(Setting(full_path, _fitted(value, full_path), setting_source))

    visit(values, ())
    return _kinds_first(settings)


def from_file(path: str | FilePath) -> list[Setting]:
    """Settings from a YAML or JSON file; raises `ConfigError` if it cannot be read or is not a mapping."""
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
            f"--config {path}: must contain sections and values, such as\n  cascade:\n    interleaved: false"
        )
    return from_values(values, str(path))


def from_environment(environment: Mapping[str, str]) -> list[Setting]:
    """Settings from `HTC_SECTION__NAME=value` variables. Empty ones, and `HTC_` variables that are not a section
    (HTC_CACHE), are ignored.
    """
    settings = []
    for name, text in sorted(environment.items()):
        section, *names = name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        if name.startswith(ENVIRONMENT_PREFIX) and text and (names or section in Config.model_fields):
            path = _named((section, *names), name)
            settings.append(Setting(path, parsed(text, path), name))
    return _kinds_first(settings)


def from_flags(flags: Iterable[tuple[str, str]]) -> list[Setting]:
    """Settings from (`cascade.mask-flow`, `false`) pairs; values are written as in YAML, tuples also as
    `0.5,0.6,0.7`.
    """
    settings = []
    for name, text in flags:
        path = _named(tuple(name.replace("-", "_").split(".")), f"--{name}")
        settings.append(Setting(path, parsed(text, path), f"--{name}"))
    return _kinds_first(settings)


def gather(
    file: str | FilePath | None, environment: Mapping[str, str], flags: Iterable[tuple[str, str]]
) -> list[Setting]:
    """All settings of the user, lowest layer first."""
    return [*(from_file(file) if file is not None else []), *from_environment(environment), *from_flags(flags)]


def parsed(text: str, path: Path) -> object:
    """Parse the value of a flag or variable as YAML; invalid YAML stays text, and validation reports it."""
    try:
        value = yaml.safe_load(text)
        if isinstance(value, str) and "," in value:
            value = yaml.safe_load(f"[{text}]")
    except yaml.YAMLError:
        return text
    return _fitted(value, path)


def _fitted(value: object, path: Path) -> object:
    """Convert `none` to None if the setting allows it, and a boolean to text if the setting takes no boolean, so that
    validation rejects it.
    """
    if isinstance(value, str) and value.lower() == "none" and allows_none(path):
        return None
    if isinstance(value, bool) and not accepts(path, bool):
        return str(value).lower()
    return value


def _kinds_first(settings: list[Setting]) -> list[Setting]:
    """Sort the settings of a layer so that the kind of a variant precedes its fields."""
    return sorted(settings, key=lambda setting: setting.path[-1] != "kind")


def nested(settings: Sequence[Setting]) -> dict[str, Any]:
    """The settings as nested values; later ones override earlier ones."""
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
    """Build the configuration: the preset in the settings (or the default), overridden by the settings.

    Raises `ConfigError` with all faults at once. `preset: custom` starts from the defaults of `htc.config`.
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
    """Default sections of a configuration, each with its kind, so that a single field can be overridden."""
    return {
        name: field.default.model_dump()
        for name, field in Config.model_fields.items()
        if isinstance(field.default, Section)
    }


def overlay(base: Config, settings: Sequence[Setting]) -> Config:
    """Override `base` (a checkpoint's configuration) with the settings; raises `ConfigError` with all faults at
    once.
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
    """The whole configuration as YAML that `--config` can read."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, default_flow_style=None, width=150)


def check_alone(settings: Sequence[Setting]) -> None:
    """Validate names and values of the settings before any model is known; raises `ConfigError` with all faults."""
    faults = [
        f"{setting.source}: {fault}" for setting in settings for fault in faults_alone(setting.path, setting.value)
    ]
    if faults:
        raise ConfigError(listed(faults))


def names_preset(settings: Sequence[Setting]) -> bool:
    """Test whether any setting sets the preset."""
    return any(setting.path == ("preset",) for setting in settings)

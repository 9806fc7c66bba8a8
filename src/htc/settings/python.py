"""Configuration overrides in Python: the keywords that `htc.load`, `htc.train` and `htc.evaluate` share."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypedDict

from htc.config import Cascade, Config, Inference, Input, Section, Training
from htc.errors import ConfigError
from htc.keywords import unknown_option
from htc.settings.layers import Setting, check_alone, from_environment, from_file, from_values


class Overrides(TypedDict, total=False):
    """Sections of the configuration as keywords; each is a dictionary of changes, or a whole section.

    `htc.load("htc_r50_fpn_20e_coco", inference={"max_detections": 300})`
    """

    neck: Mapping[str, Any]
    rpn: Mapping[str, Any]
    cascade: Mapping[str, Any] | Cascade
    inference: Mapping[str, Any] | Inference
    input: Mapping[str, Any] | Input
    training: Mapping[str, Any] | Training


SECTIONS = tuple(Overrides.__annotations__)


def check_overrides(function: Callable[..., Any], overrides: Mapping[str, Any]) -> None:
    """Raise `TypeError`, with the nearest name, for a keyword that is neither an option of `function` nor a section of
    the configuration.
    """
    unknown = {name: value for name, value in overrides.items() if name not in SECTIONS}
    if unknown:
        raise unknown_option(function, unknown, SECTIONS)


def python_settings(config: Config | str | Path | None, values: Mapping[str, Any], function: str) -> list[Setting]:
    """Settings of a call: `config` (a file or a whole configuration) < `HTC_*` environment < keywords.

    `function` is the name of the call for error messages. Raises `ConfigError` with all unknown names and invalid
    values.
    """
    file: list[Setting] = []
    if isinstance(config, Config):
        file = from_values(config.model_dump(), f"{function}: config")
    elif config is not None:
        if not isinstance(config, str | Path):
            raise ConfigError(f"config is a {type(config).__name__}: pass a YAML or JSON file, or an htc.Config")
        file = from_file(config)
    plain = {name: value for name, value in values.items() if value is not None}
    settings = [*file, *from_environment(os.environ), *from_values(plain_sections(plain), function)]
    check_alone(settings)
    return settings


def plain_sections(values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert sections to dictionaries."""
    return {name: value.model_dump() if isinstance(value, Section) else value for name, value in values.items()}

"""Options shared by several commands, and fields of the configuration as flags.

Every command that builds or runs a model takes `ModelOptions`. Settings such as `--cascade.interleaved false` are
separated from the arguments before the command's own flags are parsed.
"""

import math
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, Token

from htc.config import Config
from htc.data.image_headers import Pages
from htc.devices import parse_device
from htc.errors import ConfigError
from htc.settings.layers import Setting, check_alone, gather


def _device(_kind: object, tokens: Sequence[Token]) -> str:
    return parse_device(tokens[0].value)


Device = Annotated[str, Parameter(converter=_device, metavar="NAME")]
Flags = Annotated[Sequence[tuple[str, str]], Parameter(parse=False)]
"""The configuration flags of the call; passed to each command that has this parameter."""
JsonTarget = Annotated[str | None, Parameter(name="--json", allow_leading_hyphen=True, metavar="FILE")]
Words = Annotated[list[str], Parameter(consume_multiple=True, negative="")]
Switch = Annotated[bool, Parameter(negative="", show_default=False)]
File = Annotated[Path, Parameter(metavar="FILE")]
Folder = Annotated[Path, Parameter(metavar="DIR")]
Name = Annotated[str, Parameter(metavar="NAME")]
LabelMaps = Annotated[str, Parameter(metavar="auto|MODE")]


def _fraction(_kind: object, value: float | None) -> None:
    if value is not None and not 0 <= value <= 1:
        raise ValueError("Give a value from 0 to 1.")


def _one_or_more(_kind: object, value: int | None) -> None:
    if value is not None and value < 1:
        raise ValueError("Give 1 or more.")


def _zero_or_more(_kind: object, value: int | None) -> None:
    if value is not None and value < 0:
        raise ValueError("Give 0 or more.")


def _zero_or_auto(_kind: object, value: int | str) -> None:
    if isinstance(value, int) and value < 0:
        raise ValueError("Give 0 or more, or auto.")


def _above_zero(_kind: object, value: float | None) -> None:
    if value is not None and not 0 < value < math.inf:
        raise ValueError("Give a number above 0.")


Threshold = Annotated[float, Parameter(validator=_fraction)]
Count = Annotated[int, Parameter(validator=_one_or_more)]
Natural = Annotated[int, Parameter(validator=_zero_or_more)]
Workers = Annotated[int | Literal["auto"], Parameter(validator=_zero_or_auto)]
Above = Annotated[float, Parameter(validator=_above_zero)]


def _pages(_kind: object, tokens: Sequence[Token]) -> str | int:
    text = tokens[0].value
    if text in ("first", "all"):
        return text
    if not text.isascii() or not text.isdigit() or not int(text):
        raise ValueError("Give first, all, or the number of a page, from 1.")
    return int(text)


def _percentile(_kind: object, tokens: Sequence[Token]) -> tuple[float, float]:
    texts = [part for token in tokens for part in token.value.split(",")]
    try:
        low, high = map(float, texts)
    except ValueError:
        raise ValueError("Give two percentiles, as in 0.1,99.9.") from None
    if not 0 <= low < high <= 100:
        raise ValueError("Give two percentiles from 0 to 100 in ascending order, as in 0.1,99.9.")
    return low, high


PagesOption = Annotated[Pages, Parameter(converter=_pages, n_tokens=1, metavar="first|all|N")]
Percentile = Annotated[tuple[float, float], Parameter(converter=_percentile, n_tokens=1, metavar="LOW,HIGH")]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Options of all commands with a model. Every field of the configuration is also a flag:
    `--cascade.interleaved false`.
    """

    config: File | None = None
    """YAML or JSON file of settings, which override those of the preset or model."""
    device: Device = "auto"
    """auto (CUDA if available, else the CPU), cpu, cuda, cuda:N, N (the same) or mps."""
    precision: Literal["auto", "fp32", "bf16"] | None = None
    """Precision of the network (boxes are always fp32); auto selects the faster one. Default: the model's own."""
    print_config: Switch = False
    """Print the configuration as YAML for --config and exit."""

    def settings(self, flags: Sequence[tuple[str, str]]) -> list[Setting]:
        """Return all settings of this call, in ascending priority, without `--precision auto`, which is resolved later.

        Raises one `ConfigError` that lists every unknown field and invalid value.
        """
        settings = gather(self.config, os.environ, flags)
        if self.precision not in (None, "auto"):
            settings.append(Setting(("precision",), self.precision, "--precision"))
        check_alone(settings)
        return settings


MODEL_OPTIONS = ModelOptions()
"""Default value of the parameter `options` of every command."""


def split(arguments: Sequence[str], own: Collection[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Separate the command's own arguments from the (name, text) pairs of the configuration.

    A flag belongs to the configuration if its name contains a dot, or is a section and not one of the command's `own`
    flags. Raises `ConfigError` for a configuration flag without a value.
    """
    rest: list[str] = []
    settings: list[tuple[str, str]] = []
    position = 0
    while position < len(arguments):
        argument = arguments[position]
        position += 1
        if argument == "--":
            rest += [argument, *arguments[position:]]
            break
        name, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not _is_setting(name, own):
            rest.append(argument)
            continue
        if not equals:
            if position == len(arguments) or arguments[position].startswith("--"):
                raise ConfigError(f"{argument} needs a value, as in {argument} VALUE")
            value = arguments[position]
            position += 1
        settings.append((name, value))
    return rest, settings


def _is_setting(name: str, own: Collection[str]) -> bool:
    section = name.split(".")[0].replace("-", "_")
    known = section in Config.model_fields or section in Config.renamed_fields
    return "." in name or (f"--{name}" not in own and known)

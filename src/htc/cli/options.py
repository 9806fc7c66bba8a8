"""Flags that commands share, settings of the configuration as flags, and messages for calls that cannot be parsed.

Every command that builds or runs a model takes `ModelOptions`. Settings such as `--cascade.interleaved false` are split
off the arguments before the command's own flags are parsed.
"""

import math
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import CycloptsError, MissingArgumentError, Parameter, UnusedCliTokensError

from htc.config import Config, Precision
from htc.errors import ConfigError
from htc.settings.layers import Setting, check_alone, gather

Device = Literal["auto", "cpu", "cuda", "mps"]
Flags = Annotated[Sequence[tuple[str, str]], Parameter(parse=False)]
"""The configuration flags of the call; the command line hands them to each verb that has this parameter."""
JsonTarget = Annotated[str | None, Parameter(name="--json", allow_leading_hyphen=True, metavar="FILE")]
Words = Annotated[list[str], Parameter(consume_multiple=True, negative="")]
Switch = Annotated[bool, Parameter(negative="", show_default=False)]
File = Annotated[Path, Parameter(metavar="FILE")]
Folder = Annotated[Path, Parameter(metavar="DIR")]
Name = Annotated[str, Parameter(metavar="NAME")]


def _fraction(_kind: object, value: float | None) -> None:
    if value is not None and not 0 <= value <= 1:
        raise ValueError("Give a value from 0 to 1.")


def _one_or_more(_kind: object, value: int | None) -> None:
    if value is not None and value < 1:
        raise ValueError("Give 1 or more.")


def _zero_or_more(_kind: object, value: int | None) -> None:
    if value is not None and value < 0:
        raise ValueError("Give 0 or more.")


def _above_zero(_kind: object, value: float | None) -> None:
    if value is not None and not 0 < value < math.inf:
        raise ValueError("Give a number above 0.")


Threshold = Annotated[float, Parameter(validator=_fraction)]
Count = Annotated[int, Parameter(validator=_one_or_more)]
Natural = Annotated[int, Parameter(validator=_zero_or_more)]
Above = Annotated[float, Parameter(validator=_above_zero)]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Flags shared by all verbs with a model. Any field of the configuration is a flag too:
    `--cascade.interleaved false`.
    """

    config: File | None = None
    """YAML or JSON file with settings, laid over the preset or the model's own configuration."""
    device: Device = "auto"
    """Where to compute; auto takes CUDA if there is one, else the CPU."""
    precision: Precision | None = None
    """Arithmetic of the network (fp32, or the model's own); boxes are always fp32."""
    print_config: Switch = False
    """Print the whole configuration as YAML for --config, and do nothing else."""

    def settings(self, flags: Sequence[tuple[str, str]]) -> list[Setting]:
        """All settings of this call, lowest layer first; what no configuration has or takes is refused with one
        `ConfigError`.
        """
        found = gather(self.config, os.environ, flags)
        if self.precision is not None:
            found.append(Setting(("precision",), self.precision, "--precision"))
        check_alone(found)
        return found


MODEL_OPTIONS = ModelOptions()
"""The default of every command's `options`."""


def split(arguments: Sequence[str], own: Collection[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """(the verb's arguments, the configuration's (name, text) pairs).

    A flag belongs to the configuration if its name holds a dot, or names a section and is not among the verb's `own`
    flags. Raises `ConfigError` for a configuration flag without a value.
    """
    rest: list[str] = []
    found: list[tuple[str, str]] = []
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
        found.append((name, value))
    return rest, found


def _is_setting(name: str, own: Collection[str]) -> bool:
    section = name.split(".")[0].replace("-", "_")
    return "." in name or (f"--{name}" not in own and section in Config.model_fields)


USAGE = {
    "models": "[NAME] [OPTIONS]",
    "predict": "SOURCE... --model MODEL [OPTIONS]",
    "train": "(--data DIR | --train-annotations FILE --train-images DIR) [OPTIONS]",
    "evaluate": "(MODEL... | --results FILE) --annotations FILE [OPTIONS]",
    "ablate": "--table N... (--data DIR | --train-annotations FILE --train-images DIR --val-annotations FILE "
    "--val-images "
    "DIR) [OPTIONS]",
    "convert": "SRC DST [OPTIONS]",
    "doctor": "ANNOTATIONS IMAGES [OPTIONS]",
}
"""How each verb is called, where the parser could not tell."""

REQUIRED = {
    "--model": "name a preset (`htc models` lists them), a folder that `htc train` or `htc convert` wrote, or a "
    "weights file",
    "SRC": "name the checkpoint to convert",
    "DST": "name the folder to make",
    "ANNOTATIONS": "name the COCO annotations to examine, or the folder of a data set",
}
"""What to give for an argument without a default."""

SETTINGS = """Every field of the configuration can be set; each of these over the ones before:
  preset or model   --preset NAME, --model MODEL
  file              --config own.yaml
  environment       HTC_INFERENCE__NMS_IOU=0.6
  flag              --inference.nms_iou 0.6 --cascade.interleaved false
--print-config shows the result, `htc models --schema` all fields."""
"""Help below the flags of a verb that takes settings."""


def explain(error: CycloptsError) -> str:
    """The fault, and where the help is."""
    verb = " ".join(error.command_chain or ())
    return f"{_fault(error)}\n`{f'htc {verb}'.strip()} --help` shows what it takes"


def _fault(error: CycloptsError) -> str:
    if isinstance(error, UnusedCliTokensError):
        return (
            f"more arguments than `htc {' '.join(error.command_chain or ())}` takes: "
            f"{' '.join(error.unused_tokens or ())}"
        )
    if not isinstance(error, MissingArgumentError) or error.argument is None:
        return str(error)
    if error.keyword is not None or error.argument.tokens:
        return f"{error.keyword or error.argument.name} needs a value"
    near = str(error).partition("Did you mean ")[2]
    if near:
        return f"{error.argument.name} is missing; did you mean {near}"
    return f"{error.argument.name} is missing: {REQUIRED.get(error.argument.name, 'it has no default')}"

"""What every verb that builds or runs a model takes: `--config`, `--device`, `--precision`, and settings of the
configuration.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from htc.settings.layers import Setting, check_alone, gather

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["fp32", "bf16"]
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

"""What every verb that builds or runs a model takes: `--config`, `--device`, `--precision`, and settings of the configuration."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, validators

from htc.settings import Setting, check_names, gather

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["fp32", "bf16"]
Flags = Annotated[Sequence[tuple[str, str]], Parameter(parse=False)]
"""The configuration flags of the call; the command line hands them to each verb that has this parameter."""
JsonTarget = Annotated[str | None, Parameter(name="--json", allow_leading_hyphen=True)]
Threshold = Annotated[float, Parameter(validator=validators.Number(gte=0, lte=1))]
Count = Annotated[int, Parameter(validator=validators.Number(gte=1))]
Words = Annotated[list[str], Parameter(consume_multiple=True, negative="")]
Switch = Annotated[bool, Parameter(negative="")]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Flags shared by all verbs with a model. Any field of the configuration is a flag too: `--cascade.interleaved false`."""

    config: Path | None = None
    """YAML or JSON file with settings, laid over the preset or the model's own configuration."""
    device: Device = "auto"
    """Where to compute; auto takes a GPU if there is one."""
    precision: Precision | None = None
    """Arithmetic of the network; boxes are always fp32."""
    print_config: Switch = False
    """Print the whole configuration as YAML, and do nothing else."""

    def settings(self, flags: Sequence[tuple[str, str]]) -> list[Setting]:
        """All settings of this call, lowest layer first; names that no configuration has are refused with `ConfigError`."""
        found = gather(self.config, os.environ, flags)
        if self.precision is not None:
            found.append(Setting(("precision",), self.precision, "--precision"))
        check_names(found)
        return found

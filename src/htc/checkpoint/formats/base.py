"""What every reader of foreign weights shares: facts that the user supplies, the converted weights with a record of changes, renaming rules."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from htc.checkpoint.formats.mmdetection_config import ConfigFacts
from htc.errors import CheckpointError, ConfigError
from htc.model.heads import BOX_BINS

Colours = Literal["bgr", "rgb"]


@dataclass(frozen=True)
class UserFacts:
    """What the user says of a file; None leaves a fact to the file, or to the project's default where there is one."""

    colours: Colours | None = None
    """The order of the channels that its network reads (detectron2; the original without its configuration)."""
    norm_epsilon: float | None = None
    """Of the frozen norms of its backbone, 0 or 1e-5 (torchvision)."""

    def __post_init__(self) -> None:
        if self.norm_epsilon not in (None, 0, 1e-5):
            raise ConfigError(f"the norms' epsilon is {self.norm_epsilon}; 0 and 1e-5 are supported")

    def check(self, path: Path, *used: str) -> None:
        """Raise `CheckpointError` for something told that this kind of file has no use for: it would be silently
        without effect.
        """
        for field in fields(self):
            if getattr(self, field.name) is not None and field.name not in used:
                flag = field.name.replace("_", "-")
                raise CheckpointError(
                    f"{path}: --{flag} says nothing of a file of this kind; leave it out ({_OF[field.name]})"
                )


NO_FACTS = UserFacts()
_OF = {
    "colours": "it is for detectron2's and the original's",
    "norm_epsilon": "it is for the frozen norms of torchvision's",
}


@dataclass
class Upgraded:
    """A file's weights under our names, in our row order, with what was done on the way."""

    version: int | None
    """1, 2 or 3: the generation of mmdetection; None: another project's."""
    weights: dict[str, Tensor]
    classes: tuple[str, ...] | None
    facts: ConfigFacts
    experiment: str | None
    """The name of the configuration it was trained with, where the file tells."""
    renamed: dict[str, str] = field(default_factory=dict)
    """Our name -> the file's."""
    reordered: list[tuple[str, str]] = field(default_factory=list)
    dropped: list[tuple[str, str]] = field(default_factory=list)
    filled: list[tuple[str, str]] = field(default_factory=list)
    """(our name, why it is not in the file)."""
    notes: list[str] = field(default_factory=list)

    def put(self, path: Path, theirs: str, ours: str, tensor: Tensor) -> None:
        """Take a tensor of the file over; raises `CheckpointError` where two of its names mean the same, or it is a
        mere number.
        """
        if ours in self.weights:
            raise CheckpointError(
                f"{path}: {theirs} and {self.renamed.get(ours, ours)} are the same parameter; the file mixes two "
                f"versions"
            )
        if not tensor.dim() and tensor.is_floating_point():
            raise CheckpointError(
                f"{path}: {theirs} is a single number, which no layer has; the file is damaged or of another "
                f"architecture"
            )
        self.weights[ours] = tensor.float() if tensor.is_floating_point() else tensor
        if ours != theirs:
            self.renamed[ours] = theirs

    def change(self, name: str, what: str, change: Callable[[Tensor], Tensor]) -> None:
        """Rearrange a tensor, if the file has it, and remember what was done."""
        if name in self.weights:
            self.weights[name] = change(self.weights[name]).contiguous()
            self.reordered.append((name, what))


def pixel_major(result: Upgraded) -> None:
    """Others flatten RoI features as (C, 7, 7); our box heads read them as they are pooled, (7, 7, C)."""
    for name in [name for name in result.weights if name.endswith(".fc.0.weight")]:
        if result.weights[name].dim() == 2 and result.weights[name].shape[1] % BOX_BINS**2 == 0:
            result.change(
                name,
                "columns from (C, 7, 7) to (7, 7, C)",
                lambda w: w.view(len(w), -1, BOX_BINS, BOX_BINS).permute(0, 2, 3, 1).flatten(1),
            )


def rgb_stem(result: Upgraded) -> None:
    """The stems of a network that reads blue, green, red, for pictures in red, green, blue; exact."""
    for name in ("backbone.conv1.weight", "second_look.backbone.conv1.weight"):
        result.change(name, "input channels from BGR to RGB", lambda weight: weight.flip(1))


def background_last(tensor: Tensor) -> Tensor:
    """Rows rolled by one."""
    return torch.cat([tensor[1:], tensor[:1]])


Rules = Sequence[tuple[str, str]]
"""(pattern, replacement), first match wins."""


def rename(name: str, rules: Rules) -> str:
    """The name as the first rule that matches makes it; without any it comes back unchanged."""
    for pattern, replacement in rules:
        if re.search(pattern, name):
            return re.sub(pattern, replacement, name)
    return name

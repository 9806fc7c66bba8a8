"""Shared parts of the readers of other projects' weights: converted weights with a record of changes, renaming."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from htc.checkpoint.formats.mmdetection_config import ConfigFacts
from htc.errors import CheckpointError
from htc.model.heads import BOX_BINS


@dataclass
class ConvertedWeights:
    """A file's weights under our names and in our row order, with a record of the changes."""

    version: int | None
    """Major version of mmdetection: 1, 2 or 3; None for another project."""
    weights: dict[str, Tensor]
    classes: tuple[str, ...] | None
    facts: ConfigFacts
    experiment: str | None
    """Name of the configuration it was trained with, if the file records it."""
    renamed: dict[str, str] = field(default_factory=dict)
    """Our name -> the file's."""
    reordered: list[tuple[str, str]] = field(default_factory=list)
    dropped: list[tuple[str, str]] = field(default_factory=list)
    filled: list[tuple[str, str]] = field(default_factory=list)
    """(our name, reason why it is not in the file)."""
    notes: list[str] = field(default_factory=list)

    def put(self, path: Path, theirs: str, ours: str, tensor: Tensor) -> None:
        """Add a tensor of the file; raises `CheckpointError` if two names in the file are the same parameter, or if it
        is a scalar.
        """
        if ours in self.weights:
            raise CheckpointError(
                f"{path}: {theirs} and {self.renamed.get(ours, ours)} are the same parameter; the file mixes two "
                f"versions"
            )
        if not tensor.dim() and tensor.is_floating_point():
            raise CheckpointError(
                f"{path}: {theirs} is a scalar, which is invalid for a layer; the file is damaged or of another "
                f"architecture"
            )
        self.weights[ours] = tensor.float() if tensor.is_floating_point() else tensor
        if ours != theirs:
            self.renamed[ours] = theirs

    def change(self, name: str, what: str, change: Callable[[Tensor], Tensor]) -> None:
        """Change a tensor, if the file has it, and record the change."""
        if name in self.weights:
            self.weights[name] = change(self.weights[name]).contiguous()
            self.reordered.append((name, what))


def pixel_major(result: ConvertedWeights) -> None:
    """Reorder the columns of the first box head layer: other projects flatten RoI features as (C, 7, 7), we pool them
    as (7, 7, C).
    """
    for name in [name for name in result.weights if name.endswith(".fc.0.weight")]:
        if result.weights[name].dim() == 2 and result.weights[name].shape[1] % BOX_BINS**2 == 0:
            result.change(
                name,
                "columns from (C, 7, 7) to (7, 7, C)",
                lambda w: w.view(len(w), -1, BOX_BINS, BOX_BINS).permute(0, 2, 3, 1).flatten(1),
            )


def rgb_stem(result: ConvertedWeights) -> None:
    """Flip the input channels of the stems of a network for BGR images, so that it takes RGB images; exact."""
    for name in ("backbone.conv1.weight", "second_look.backbone.conv1.weight"):
        result.change(name, "input channels from BGR to RGB", lambda weight: weight.flip(1))


def background_last(tensor: Tensor) -> Tensor:
    """Move the first row to the end."""
    return torch.cat([tensor[1:], tensor[:1]])


Rules = Sequence[tuple[str, str]]
"""(pattern, replacement); the first match applies."""


def rename(name: str, rules: Rules) -> str:
    """Apply the first matching rule to the name; without a match it is returned unchanged."""
    for pattern, replacement in rules:
        if re.search(pattern, name):
            return re.sub(pattern, replacement, name)
    return name

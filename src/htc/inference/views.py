"""The views of test-time augmentation and their syntax (paper, section 4.4). Does not import torch, so that the command
line can check `--views` first.
"""

import math
import re
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from htc.config import Input
from htc.errors import ConfigError

if TYPE_CHECKING:
    from htc.data.transforms import Placement

PAPER_SCALES = ((600, 900), (800, 1200), (1000, 1500), (1200, 1800), (1400, 2100))
"""(short edge, long edge) of the paper's multi-scale testing (Table 7), each with and without a horizontal flip."""
SYNTAX = (
    "write scales as factors (0.75,1,1.25) or as SHORTxLONG pixels (600x900,800x1200), then :flip to add flipped "
    "views; or write paper"
)


@dataclass(frozen=True)
class View:
    """One augmented version of an image: resized and possibly flipped. The default is the model's usual input."""

    scale: float | tuple[int, int] = 1.0
    """A factor on the size given by the model's `input` settings, or (short edge, long edge) in pixels."""
    flip_horizontal: bool = False
    flip_vertical: bool = False

    def placement(self, size: tuple[int, int], settings: Input) -> "Placement":
        """Return the resizing and flips of an image of `size` (height, width) for a model with these settings."""
        from htc.data.transforms import Placement, resized_size  # imports torch

        if isinstance(self.scale, tuple):
            resized = resized_size(size, *self.scale)
        else:
            short, long = (max(round(edge * self.scale), 1) for edge in (settings.short_edge, settings.long_edge))
            resized = resized_size(
                size, short, long, None if settings.max_scale is None else settings.max_scale * self.scale
            )
        return Placement(size, resized, self.flip_horizontal, self.flip_vertical)


SINGLE_VIEW = (View(),)
"""One view, without augmentation."""


def parse_views(text: str) -> tuple[View, ...]:
    """Parse views such as `0.75,1,1.25:flip`, `600x900,800x1200`, `1:flip,vflip` or `paper`; raises `ConfigError`.

    Scales come first, then, after a colon, `flip` (horizontal) and `vflip` (vertical); every scale is combined with
    every combination of flips. `paper` is the paper's five scales with `flip`.
    """
    if text == "paper":
        return _views(PAPER_SCALES, {"flip"})
    scales, colon, flips = text.partition(":")
    chosen = set(flips.split(",")) if colon else set()
    if not chosen <= {"flip", "vflip"}:
        raise ConfigError(f"views {text!r}: after the colon, write flip, vflip or flip,vflip; {SYNTAX}")
    return _views([_scale(part, text) for part in scales.split(",")], chosen)


def _views(scales: list[float | tuple[int, int]] | tuple[tuple[int, int], ...], flips: set[str]) -> tuple[View, ...]:
    ways = product(
        dict.fromkeys(scales),
        (False, True) if "vflip" in flips else (False,),
        (False, True) if "flip" in flips else (False,),
    )
    return tuple(View(scale, horizontal, vertical) for scale, vertical, horizontal in ways)


def _scale(part: str, text: str) -> float | tuple[int, int]:
    if pixels := re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", part):
        short, long = int(pixels[1]), int(pixels[2])
        if short > long:
            raise ConfigError(f"views {text!r}: short edge {short} is larger than long edge {long}: swap them")
        return short, long
    try:
        factor = float(part)
    except ValueError:
        factor = math.nan
    if not 0 < factor < math.inf:
        raise ConfigError(f"views {text!r}: {part!r} is not a scale; {SYNTAX}")
    return factor

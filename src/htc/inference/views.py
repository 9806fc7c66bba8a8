"""The views of test-time augmentation, and the words that name them (paper, section 4.4). Needs no torch: the command
line checks `--views` before torch is imported.
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
"""(short edge, long edge) of the paper's multi-scale test (Table 7); each with and without a horizontal flip."""
SYNTAX = (
    "write scales, as factors (0.75,1,1.25) or as SHORTxLONG pixels (600x900,800x1200), then :flip for "
    "mirrored views "
    "too; or paper"
)


@dataclass(frozen=True)
class View:
    """One way to show an image to a network: resized, perhaps mirrored. The default is how the model sees it
    anyway.
    """

    scale: float | tuple[int, int] = 1.0
    """A factor on the size that the model's own `input` settings give, or (short edge, long edge) in pixels."""
    flip_horizontal: bool = False
    flip_vertical: bool = False

    def placement(self, size: tuple[int, int], settings: Input) -> "Placement":
        """How an image of `size` (height, width) gets into this view of a model with these settings."""
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
"""No augmentation."""


def parse_views(text: str) -> tuple[View, ...]:
    """`0.75,1,1.25:flip`, `600x900,800x1200`, `1:flip,vflip`, `paper`; raises `ConfigError`.

    Scales come first, then, after a colon, `flip` (left and right exchanged) and `vflip` (top and bottom): every scale
    in every combination of them. `paper` is the paper's five scales with `flip`.
    """
    if text == "paper":
        return _views(PAPER_SCALES, {"flip"})
    scales, colon, flips = text.partition(":")
    chosen = set(flips.split(",")) if colon else set()
    if not chosen <= {"flip", "vflip"}:
        raise ConfigError(f"views {text!r}: after the colon come flip, vflip, or both with a comma; {SYNTAX}")
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
            raise ConfigError(f"views {text!r}: short edge {short} is larger than long edge {long}: exchange them")
        return short, long
    try:
        factor = float(part)
    except ValueError:
        factor = math.nan
    if not 0 < factor < math.inf:
        raise ConfigError(f"views {text!r}: {part!r} is no scale; {SYNTAX}")
    return factor

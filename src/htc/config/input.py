"""What the network sees of a picture."""

from typing import Literal, Self

from pydantic import model_validator

from htc.config.section import Positive, PositiveFloat, Section


class Input(Section):
    """Network input: RGB, resized with its ratio kept into (short_edge, long_edge), normalised, padded to `divisor`."""

    short_edge: Positive = 800
    long_edge: Positive = 1333
    max_scale: PositiveFloat | None = None
    """Never enlarge a picture by more than this, however far below the edges it stays: 1 keeps the size of small ones.

    Where training draws the short edge, or a test looks at several scales, the limit is multiplied by the same factor.
    """
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (58.395, 57.12, 57.375)
    divisor: Positive = 32
    padding: Literal["zero", "edge"] = "zero"
    """What fills the padding: zeros, which are the mean colour, as in the original; or the picture's last row and
    column repeated.

    A network trained on crops never sees padding. Where pictures are dark, a band of the mean colour is a bright one,
    and what it has not learned to ignore: edge keeps it out.
    """

    @model_validator(mode="after")
    def _edges_in_order(self) -> Self:
        if self.short_edge > self.long_edge:
            raise ValueError(f"short_edge {self.short_edge} is larger than long_edge {self.long_edge}")
        return self

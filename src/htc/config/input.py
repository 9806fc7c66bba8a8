"""What the network sees of a picture."""

from typing import Self

from pydantic import model_validator

from htc.config.section import Positive, PositiveFloat, Section


class Input(Section):
    """Network input: RGB, resized with its ratio kept into (short_edge, long_edge), normalised, padded to `divisor`."""

    short_edge: Positive = 800
    long_edge: Positive = 1333
    max_scale: PositiveFloat | None = None
    """Never enlarge a picture by more than this, however far below the edges it stays: 1 keeps the size of small ones."""
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (58.395, 57.12, 57.375)
    divisor: Positive = 32

    @model_validator(mode="after")
    def _edges_in_order(self) -> Self:
        if self.short_edge > self.long_edge:
            raise ValueError(f"short_edge {self.short_edge} is larger than long_edge {self.long_edge}")
        return self

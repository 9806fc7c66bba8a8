"""What chance does to a training picture."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from htc.config.section import Fraction, Positive, PositiveFloat, Section

Deviation = Annotated[float, Field(ge=0, le=1)]


class ScaleJitter(Section):
    """Large-scale jitter (Ghiasi et al. 2021, section 3): the picture, fitted into `size` times a factor drawn from
    `scales`, of which a window of `size` (height, width) is cut at random; what is smaller is padded with its batch.
    """

    scales: tuple[PositiveFloat, PositiveFloat] = (0.1, 2.0)
    size: tuple[Positive, Positive] = (1024, 1024)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.scales[0] > self.scales[1]:
            raise ValueError(f"scales {self.scales}: the smaller factor comes first")
        return self


class Photometric(Section):
    """Colours (the distortion of SSD, Liu et al. 2016, section 3.6): each of four changes is made with the given
    probability.

    Brightness, contrast and saturation are multiplied by a factor from 1 - d to 1 + d, the hue turns by up to d (0.5:
    half way round).
    """

    probability: Fraction = 0.5
    brightness: Deviation = 0.125
    contrast: Deviation = 0.5
    saturation: Deviation = 0.5
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.05


class CopyPaste(Section):
    """Objects of a second picture, pasted with their masks (Ghiasi et al. 2021, section 3), without blending."""

    probability: Fraction = 0.5
    """Of a picture to receive any."""
    share: Fraction = 0.5
    """Each object of the second picture is pasted with this probability."""


class Augmentation(Section):
    """What happens to a training picture: resize, flips, crop; then colours; then pasted objects. Null leaves a part
    out.
    """

    horizontal_flip: Fraction = 0.5
    vertical_flip: Fraction = 0.0
    resize: bool = True
    """False keeps the picture at its original size (before a crop)."""
    short_edges: tuple[Positive, Positive] | None = None
    """Multi-scale: the short edge is drawn from this range, ends included; null takes input.short_edge."""
    short_edge_choices: tuple[Positive, ...] | None = None
    """Multi-scale: the short edge is one of these."""
    long_edge: Positive | None = None
    """Null takes input.long_edge."""
    crop: tuple[Positive, Positive] | None = None
    """(height, width) of a window cut at random after resizing."""
    jitter: ScaleJitter | None = None
    """Instead of resize and crop."""
    photometric: Photometric | None = None
    copy_paste: CopyPaste | None = None

    @model_validator(mode="after")
    def _one_way_to_resize(self) -> Self:
        if self.short_edges is not None and self.short_edge_choices is not None:
            raise ValueError(
                "short_edges (a range) and short_edge_choices (a list) exclude each other: give one of them"
            )
        if self.short_edges is not None and self.short_edges[0] > self.short_edges[1]:
            raise ValueError(f"short_edges {self.short_edges}: the shorter edge comes first")
        if self.short_edge_choices == ():
            raise ValueError("short_edge_choices is empty: name at least one edge, or null")
        resizing = [
            name
            for name in ("short_edges", "short_edge_choices", "long_edge", "crop")
            if getattr(self, name) is not None
        ]
        if self.jitter is not None and (resizing or not self.resize):
            raise ValueError(f"jitter resizes and crops by itself: leave out {', '.join(resizing) or 'resize: false'}")
        return self

"""How a model is trained: optimizer, schedule, augmentation and sampling of images."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from htc.config.base import Fraction, Positive, PositiveFloat, Section

Deviation = Annotated[float, Field(ge=0, le=1)]


class ScaleJitter(Section):
    """Large-scale jitter (Ghiasi et al. 2021, section 3): the image, fitted into `size` times a factor drawn from
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
    """Colors (the distortion of SSD, Liu et al. 2016, section 3.6): each of four changes is made with the given
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
    """Objects of a second image, pasted with their masks (Ghiasi et al. 2021, section 3), without blending."""

    probability: Fraction = 0.5
    """Of an image to receive any."""
    share: Fraction = 0.5
    """Each object of the second image is pasted with this probability."""


class Augmentation(Section):
    """What happens to a training image: resize, flips, crop; then colors; then pasted objects. Null leaves a part
    out.
    """

    horizontal_flip: Fraction = 0.5
    vertical_flip: Fraction = 0.0
    resize: bool = True
    """False keeps the image at its original size (before a crop)."""
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


class Sampling(Section):
    """How often images are seen in an epoch, and how they are grouped; the default is once each, in any company."""

    group_by_shape: bool = False
    """Landscape and portrait images in batches of their own, so that little of a batch is padding."""
    repeat_threshold: Fraction | None = None
    """Repeat-factor sampling (LVIS, Gupta et al. 2019, appendix A): a class c that only a fraction f(c) below this
    threshold t of the images shows is seen sqrt(t / f(c)) times as often, by repeating its images. LVIS takes
    0.001. Null: every image once.
    """


class SGD(Section):
    """The original's optimizer; `lr` is for 16 images a step and scales linearly with the real batch."""

    kind: Literal["sgd"] = "sgd"
    lr: PositiveFloat = 0.02
    momentum: Fraction = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4


class AdamW(Section):
    """AdamW; `lr` is used as it is."""

    kind: Literal["adamw"] = "adamw"
    lr: PositiveFloat = 3e-4
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    weight_decay_of: Literal["all", "weights"] = "all"
    """`weights` spares norms, biases and position tables, as transformers are trained."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The learning rate of each block of the backbone over that of the next one (Bao et al. 2021, BEiT); 1: all
    learn alike.
    """


class Training(Section):
    """The schedule: linear warm-up, then `steps` multiplies the learning rate by `lr_factor` after each milestone
    (epochs), `cosine` lowers it along half a cosine to nothing at the end of the last epoch.

    `average_decay`: evaluate and keep a moving average of the weights, that much of it kept at each step; null: the
    weights themselves.
    """

    epochs: Positive = 12
    schedule: Literal["steps", "cosine"] = "steps"
    average_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    milestones: tuple[Positive, ...] = (8, 11)
    lr_factor: PositiveFloat = 0.1
    warmup_steps: Annotated[int, Field(ge=0)] = 500
    warmup_start: PositiveFloat = 0.001
    batch_size: Positive = 2
    """Images of one process at once."""
    accumulate: Positive = 1
    """Batches whose gradients make one step: a larger batch than memory holds."""
    clip_gradients: PositiveFloat | None = None
    early_stop: Positive | None = None
    """End after so many evaluations without a better mask AP (box AP without masks); null: never."""
    loss_average: Literal["global", "rank"] = "global"
    optimizer: Annotated[SGD | AdamW, Field(discriminator="kind")] = SGD()
    augmentation: Augmentation = Augmentation()
    sampling: Sampling = Sampling()

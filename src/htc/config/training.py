"""Configuration of training: optimizer, schedule, augmentation and sampling of images."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from htc.config.base import Fraction, Positive, PositiveFloat, Section

Deviation = Annotated[float, Field(ge=0, le=1)]


class ScaleJitter(Section):
    """Large-scale jitter (Ghiasi et al. 2021, section 3): the image is resized to fit `size` (height, width) times a
    random factor from `scales`; then a random window of `size` is cropped. A smaller image is padded in its batch.
    """

    scales: tuple[PositiveFloat, PositiveFloat] = (0.1, 2.0)
    """Smallest and largest factor."""
    size: tuple[Positive, Positive] = (1024, 1024)
    """(height, width) of the window in pixels."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.scales[0] > self.scales[1]:
            raise ValueError(f"scales {self.scales}: give the smaller factor first")
        return self


class Photometric(Section):
    """Color augmentation (the distortion of SSD, Liu et al. 2016, section 3.6): four changes, each applied with
    `probability`.

    Brightness, contrast and saturation are multiplied by a factor from 1 - d to 1 + d; the hue is rotated by up to d
    (0.5: half a turn).
    """

    probability: Fraction = 0.5
    """Probability of each of the four changes."""
    brightness: Deviation = 0.125
    """Largest relative change d of the brightness."""
    contrast: Deviation = 0.5
    """Largest relative change d of the contrast."""
    saturation: Deviation = 0.5
    """Largest relative change d of the saturation."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    """Largest rotation d of the hue, in turns."""


class CopyPaste(Section):
    """Copy-paste (Ghiasi et al. 2021, section 3): instances of a second image are pasted with their masks, without
    blending.
    """

    probability: Fraction = 0.5
    """Probability that instances are pasted into an image."""
    share: Fraction = 0.5
    """Probability of each instance of the second image to be pasted."""


class Augmentation(Section):
    """Augmentation of a training image: resize, flips, crop; then colors; then copy-paste. Null disables a step."""

    horizontal_flip: Fraction = 0.5
    """Probability of a horizontal flip."""
    vertical_flip: Fraction = 0.0
    """Probability of a vertical flip."""
    resize: bool = True
    """False keeps the image at its original size (before a crop)."""
    short_edges: tuple[Positive, Positive] | None = None
    """Multi-scale training: the short edge is drawn from this range, ends included; null: input.short_edge."""
    short_edge_choices: tuple[Positive, ...] | None = None
    """Multi-scale training: the short edge is one of these."""
    long_edge: Positive | None = None
    """Null: input.long_edge."""
    crop: tuple[Positive, Positive] | None = None
    """(height, width) of a random crop after resizing."""
    jitter: ScaleJitter | None = None
    """Replaces resize and crop."""
    photometric: Photometric | None = None
    """Color augmentation."""
    copy_paste: CopyPaste | None = None
    """Copy-paste of instances between images."""

    @model_validator(mode="after")
    def _one_way_to_resize(self) -> Self:
        if self.short_edges is not None and self.short_edge_choices is not None:
            raise ValueError(
                "short_edges (a range) and short_edge_choices (a list) exclude each other: set one of them"
            )
        if self.short_edges is not None and self.short_edges[0] > self.short_edges[1]:
            raise ValueError(f"short_edges {self.short_edges}: give the shorter edge first")
        if self.short_edge_choices == ():
            raise ValueError("short_edge_choices is empty: give at least one edge, or null")
        resizing = [
            name
            for name in ("short_edges", "short_edge_choices", "long_edge", "crop")
            if getattr(self, name) is not None
        ]
        if self.jitter is not None and (resizing or not self.resize):
            raise ValueError(f"jitter already resizes and crops: remove {', '.join(resizing) or 'resize: false'}")
        return self


class Sampling(Section):
    """Sampling of images in an epoch and their grouping into batches; by default, each image once, in random
    batches.
    """

    group_by_shape: bool = False
    """Put landscape and portrait images into separate batches, which need less padding."""
    repeat_threshold: Fraction | None = None
    """Repeat-factor sampling (LVIS, Gupta et al. 2019, appendix A): images of a class c that occurs in a fraction f(c)
    of the images, below this threshold t, are repeated sqrt(t / f(c)) times. LVIS uses 0.001. Null: every image once.
    """


class SGD(Section):
    """SGD, the optimizer of the paper; `lr` is for 16 images per step and scales linearly with the batch size."""

    kind: Literal["sgd"] = "sgd"
    lr: PositiveFloat = 0.02
    """Learning rate for 16 images per step."""
    momentum: Fraction = 0.9
    """Momentum."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """Weight decay of all parameters."""


class AdamW(Section):
    """AdamW; `lr` is not scaled with the batch size."""

    kind: Literal["adamw"] = "adamw"
    lr: PositiveFloat = 3e-4
    """Learning rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    """Weight decay."""
    weight_decay_of: Literal["all", "weights"] = "all"
    """`weights` excludes norms, biases and position embeddings, as is usual for transformers."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Learning rate of each block of the backbone, relative to the next one (Bao et al. 2021, BEiT); 1: the same for
    all.
    """


class Training(Section):
    """Learning-rate schedule: linear warm-up, then either `steps`, which multiplies the learning rate by `lr_factor`
    after each milestone (epochs), or `cosine`, which lowers it to zero at the end of the last epoch.

    `average_decay`: decay of an EMA of the weights, which is evaluated and saved in place of the weights; null: no EMA.
    """

    epochs: Positive = 12
    """Number of passes over the training images."""
    schedule: Literal["steps", "cosine"] = "steps"
    """Decrease of the learning rate after the warm-up; see above."""
    average_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of the EMA of the weights, for example 0.999."""
    milestones: tuple[Positive, ...] = (8, 11)
    """Epochs after which `steps` multiplies the learning rate by `lr_factor`."""
    lr_factor: PositiveFloat = 0.1
    """Factor at each milestone."""
    warmup_steps: Annotated[int, Field(ge=0)] = 500
    """Steps of the linear warm-up; 0: none."""
    warmup_start: PositiveFloat = 0.001
    """Learning rate of the first step, as a fraction of `optimizer.lr`."""
    batch_size: Positive = 2
    """Images per process and batch."""
    accumulate: Positive = 1
    """Number of batches whose gradients are accumulated for one step, for a larger batch than fits into memory."""
    clip_gradients: PositiveFloat | None = None
    """Maximum L2 norm of all gradients together; null: no clipping."""
    early_stop: Positive | None = None
    """Stop after this many evaluations without an improvement of mask AP (box AP without masks); null: never."""
    loss_average: Literal["global", "rank"] = "global"
    """With several processes, divide a loss by the number of samples of all processes (`global`), or average the
    losses of the processes (`rank`, as mmdetection does).
    """
    optimizer: Annotated[SGD | AdamW, Field(discriminator="kind")] = SGD()
    """Optimizer and its learning rate."""
    augmentation: Augmentation = Augmentation()
    """Augmentation of training images."""
    sampling: Sampling = Sampling()
    """Sampling of images in an epoch."""

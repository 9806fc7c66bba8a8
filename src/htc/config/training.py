"""How a model is trained."""

from typing import Annotated, Literal

from pydantic import Field

from htc.config.augmentation import Augmentation
from htc.config.sampling import Sampling
from htc.config.section import Fraction, Positive, PositiveFloat, Section


class SGD(Section):
    """The original's optimiser; `lr` is for 16 images a step and scales linearly with the real batch."""

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
    """Pictures of one process at once."""
    accumulate: Positive = 1
    """Batches whose gradients make one step: a larger batch than memory holds."""
    clip_gradients: PositiveFloat | None = None
    early_stop: Positive | None = None
    """End after so many evaluations without a better mask AP (box AP without masks); null: never."""
    loss_average: Literal["global", "rank"] = "global"
    optimizer: Annotated[SGD | AdamW, Field(discriminator="kind")] = SGD()
    augmentation: Augmentation = Augmentation()
    sampling: Sampling = Sampling()

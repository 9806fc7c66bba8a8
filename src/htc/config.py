"""The configuration of a model and of its training: frozen, typed, checked as a whole.

A configuration is a value. Presets (`htc.presets`) are functions that return one; files, environment and flags are laid over it
before it is validated, so that every error is found at once.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
Quad = tuple[PositiveFloat, PositiveFloat, PositiveFloat, PositiveFloat]

Fusion = Literal["none", "box", "mask", "both"]
BackboneNorm = Literal["statistics_fixed", "frozen", "batch", "sync", "group"]
LayerNorm = Literal["none", "batch", "sync", "group"]
BoxLoss = Literal["smooth_l1", "l1"]


class Section(BaseModel):
    """A part of the configuration: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ResNet(Section):
    """ResNet or ResNeXt, "pytorch" style (the stride is in the 3x3 convolution), features C2-C5 of strides 4-32.

    `norm`: `statistics_fixed` trains the affine and keeps the running statistics (the original); `frozen` trains neither.
    `frozen_stages`: 1 freezes the stem and layer1 (the original), 0 the stem alone, -1 nothing.
    """

    kind: Literal["resnet"] = "resnet"
    depth: Literal[18, 34, 50, 101, 152] = 50
    groups: Positive = 1
    base_width: Positive = 64
    norm: BackboneNorm = "statistics_fixed"
    frozen_stages: Annotated[int, Field(ge=-1, le=4)] = 1
    deformable: Literal["none", "v1", "v2"] = "none"
    deformable_stages: tuple[Annotated[int, Field(ge=2, le=5)], ...] = ()

    @model_validator(mode="after")
    def _deformable_says_where(self) -> Self:
        if (self.deformable != "none") != bool(self.deformable_stages):
            raise ValueError("deformable and deformable_stages go together: for example deformable: v1, deformable_stages: [3, 4, 5]")
        if self.deformable != "none" and self.depth < 50:
            raise ValueError("deformable convolution needs bottleneck blocks: depth 50 or more")
        if self.depth < 50 and (self.groups != 1 or self.base_width != 64):
            raise ValueError("groups and base_width need bottleneck blocks: depth 50 or more")
        return self


class FPN(Section):
    """Feature pyramid network: P2-P5, and P6 as a stride-2 subsample of P5."""

    kind: Literal["fpn"] = "fpn"
    channels: Positive = 256
    norm: LayerNorm = "none"


class PAFPN(Section):
    """FPN with PANet's bottom-up path, as the original implements it."""

    kind: Literal["pafpn"] = "pafpn"
    channels: Positive = 256
    norm: LayerNorm = "none"


class RPN(Section):
    """Region proposal network: anchors of side `anchor_scale` x stride for each ratio h/w on the levels of strides 4-64."""

    kind: Literal["rpn"] = "rpn"
    anchor_scale: PositiveFloat = 8.0
    anchor_ratios: tuple[PositiveFloat, ...] = (0.5, 1.0, 2.0)
    nms_iou: Fraction = 0.7
    candidates_per_level: Positive = 1000
    """Best boxes of each level that enter non-maximum suppression at test time."""
    proposals: Positive = 1000
    training_candidates_per_level: Positive = 2000
    training_proposals: Positive = 2000
    positive_iou: Fraction = 0.7
    negative_iou: Fraction = 0.3
    samples: Positive = 256
    positive_fraction: Fraction = 0.5
    box_loss: BoxLoss = "smooth_l1"
    box_loss_beta: PositiveFloat = 1 / 9
    anchors_inside: Literal["picture", "cells"] = "picture"
    """Anchors that are trained: wholly inside the picture, or all whose cell starts inside it (rounded up to 32 pixels)."""


class Cascade(Section):
    """The box and mask heads (paper, section 3) and how their stages are trained. Tuples hold one value a stage."""

    num_stages: Positive = 3
    interleaved: bool = True
    """Eq. 2: mask head t is trained on the boxes that box head t refined; false: Eq. 1, on the boxes it was given."""
    mask_flow: bool = True
    """Eqs. 3-5: mask features of one stage are added to the next."""
    semantic_fusion: Fusion = "both"
    """Eq. 6: which heads see the semantic feature (Table 5). `none` still trains the semantic branch."""
    class_agnostic_boxes: bool = True
    delta_stds: tuple[Quad, ...] = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))
    ious: tuple[Fraction, ...] = (0.5, 0.6, 0.7)
    loss_weights: tuple[Annotated[float, Field(ge=0)], ...] = (1.0, 0.5, 0.25)
    low_quality_matches: bool = True
    samples: Positive = 512
    positive_fraction: Fraction = 0.25
    box_loss: BoxLoss = "smooth_l1"
    box_channels: Positive = 1024
    mask_channels: Positive = 256
    mask_convs: Positive = 4
    mask_norm: LayerNorm = "none"

    @model_validator(mode="after")
    def _one_value_a_stage(self) -> Self:
        for name in ("delta_stds", "ious", "loss_weights"):
            count = len(getattr(self, name))
            if count != self.num_stages:
                raise ValueError(f"{name} has {count} values for num_stages = {self.num_stages}: give one value a stage")
        return self


class Semantic(Section):
    """The semantic branch (paper, section 3.3): fused at stride 8, four 3x3 convolutions, a prediction and an embedding."""

    classes: Positive = 183
    channels: Positive = 256
    convs: Positive = 4
    norm: LayerNorm = "none"
    loss_weight: Annotated[float, Field(ge=0)] = 0.2
    """beta of Eq. 7: 1 in the paper, 0.2 in every released configuration."""
    ignore: int = 255
    loss_average: Literal["labelled", "all"] = "labelled"
    """Divide by the labelled pixels (the paper's code) or by all pixels (mmdetection since August 2021)."""


class Inference(Section):
    """From head outputs to detections. Stages count from 1; `null` means the last one or all."""

    score_threshold: Fraction = 0.001
    nms_iou: Fraction = 0.5
    max_detections: Positive = 100
    score_ensemble: Literal["logits", "probabilities"] = "logits"
    box_stage: Positive | None = None
    score_stages: tuple[Positive, ...] | None = None
    mask_stages: tuple[Positive, ...] | None = None
    mask_threshold: Fraction = 0.5


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


class Augmentation(Section):
    """What happens to a training picture: resize, flips, crop."""

    horizontal_flip: Fraction = 0.5
    vertical_flip: Fraction = 0.0
    resize: bool = True
    """False keeps the picture at its original size (before a crop)."""
    short_edges: tuple[Positive, Positive] | None = None
    """Multi-scale: the short edge is drawn from this range, ends included; null takes input.short_edge."""
    long_edge: Positive | None = None
    """Null takes input.long_edge."""
    crop: tuple[Positive, Positive] | None = None
    """(height, width) of a window cut at random after resizing."""


class Training(Section):
    """The schedule: linear warm-up, then `steps` multiplies the learning rate by `lr_factor` after each milestone (epochs),
    `cosine` lowers it along half a cosine to nothing at the end of the last epoch.

    `average_decay`: evaluate and keep a moving average of the weights, that much of it kept at each step; null: the weights themselves.
    """

    epochs: Positive = 12
    schedule: Literal["steps", "cosine"] = "steps"
    average_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    milestones: tuple[Positive, ...] = (8, 11)
    lr_factor: PositiveFloat = 0.1
    warmup_steps: Annotated[int, Field(ge=0)] = 500
    warmup_start: PositiveFloat = 0.001
    batch_size: Positive = 2
    clip_gradients: PositiveFloat | None = None
    loss_average: Literal["global", "rank"] = "global"
    optimizer: Annotated[SGD | AdamW, Field(discriminator="kind")] = SGD()
    augmentation: Augmentation = Augmentation()


class Config(Section):
    """Everything that defines a detector and its training. `category_ids` are the ids written to result files."""

    preset: str = "custom"
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    backbone: ResNet = ResNet()
    neck: Annotated[FPN | PAFPN, Field(discriminator="kind")] = FPN()
    rpn: RPN = RPN()
    cascade: Cascade = Cascade()
    semantic: Semantic | None = Semantic()
    inference: Inference = Inference()
    input: Input = Input()
    training: Training = Training()
    precision: Literal["fp32", "bf16"] = "fp32"

    @property
    def num_classes(self) -> int:
        """K: object classes without the background."""
        return len(self.classes)

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if not self.classes:
            raise ValueError("classes is empty: name at least one class")
        if len(self.classes) != len(self.category_ids):
            raise ValueError(f"{len(self.classes)} classes but {len(self.category_ids)} category_ids: give one id a class")
        if len(set(self.category_ids)) != len(self.category_ids):
            raise ValueError("category_ids repeat an id")
        if self.semantic is None and self.cascade.semantic_fusion != "none":
            raise ValueError(f"cascade.semantic_fusion is {self.cascade.semantic_fusion!r} but semantic is null: set semantic_fusion to none")
        if self.semantic is not None and self.semantic.channels != self.neck.channels:
            raise ValueError(f"semantic.channels {self.semantic.channels} must equal neck.channels {self.neck.channels}: their features are added")
        stages = [self.inference.box_stage, *(self.inference.score_stages or ()), *(self.inference.mask_stages or ())]
        for stage in stages:
            if stage is not None and stage > self.cascade.num_stages:
                raise ValueError(f"inference names stage {stage}, but cascade.num_stages is {self.cascade.num_stages}")
        return self

"""The whole configuration of a detector and its training."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from htc.config.backbone import Backbone, ResNet
from htc.config.base import Precision, Section
from htc.config.inference import Inference, Input
from htc.config.model import FPN, PAFPN, RPN, Cascade, Proposals, RecursiveFPN, Semantic
from htc.config.training import Training


class Config(Section):
    """The whole configuration of a detector and its training. `category_ids` are the ids in result files."""

    preset: str = "custom"
    """Name of the preset that the configuration started from."""
    classes: tuple[str, ...]
    """Names of the classes, in the order of the labels."""
    category_ids: tuple[int, ...]
    """Id of each class in annotation and result files."""
    backbone: Backbone = ResNet()
    """Network that computes C2-C5."""
    neck: Annotated[FPN | PAFPN | RecursiveFPN, Field(discriminator="kind")] = FPN()
    """Feature pyramid P2-P6."""
    rpn: Proposals = RPN()
    """Region proposal network."""
    cascade: Cascade = Cascade()
    """Box and mask heads."""
    semantic: Semantic | None = Semantic()
    """Semantic branch; null: none."""
    inference: Inference = Inference()
    """From head outputs to detections."""
    input: Input = Input()
    """Size, normalization and padding of the images."""
    training: Training = Training()
    """Schedule, optimizer and augmentation."""
    precision: Precision = "fp32"
    """Precision of the network's arithmetic; box arithmetic is always fp32."""

    @property
    def num_classes(self) -> int:
        """Number of object classes K, without the background."""
        return len(self.classes)

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if not self.classes:
            raise ValueError("classes is empty: give at least one class")
        if len(self.classes) != len(self.category_ids):
            raise ValueError(
                f"{len(self.classes)} classes but {len(self.category_ids)} category_ids: give one id per class"
            )
        if len(set(self.category_ids)) != len(self.category_ids):
            raise ValueError("category_ids contains an id twice: give each class its own id")
        if self.semantic is None and self.cascade.semantic_fusion != "none":
            raise ValueError(
                f"cascade.semantic_fusion is {self.cascade.semantic_fusion!r} but semantic is null: set "
                f"cascade.semantic_fusion to none"
            )
        if self.semantic is not None and self.semantic.channels != self.neck.channels:
            raise ValueError(
                f"semantic.channels {self.semantic.channels} must equal neck.channels {self.neck.channels}: their "
                f"features are added"
            )
        if self.rpn.kind == "guided_rpn" and self.neck.channels % 4:
            raise ValueError(
                f"rpn.kind guided_rpn needs neck.channels divisible by 4, not {self.neck.channels}: its features "
                f"are adapted in four groups"
            )
        if self.neck.kind == "rfp" and self.backbone.kind != "resnet":
            raise ValueError(
                f"neck.kind rfp needs backbone.kind resnet, not {self.backbone.kind}: use neck.kind fpn or pafpn"
            )
        stages = [self.inference.box_stage, *(self.inference.score_stages or ()), *(self.inference.mask_stages or ())]
        for stage in stages:
            if stage is not None and stage > self.cascade.num_stages:
                raise ValueError(f"inference uses stage {stage}, but cascade.num_stages is {self.cascade.num_stages}")
        return self

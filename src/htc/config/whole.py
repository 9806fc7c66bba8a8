"""Everything that defines a detector and its training."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from htc.config.backbone import Backbone, ResNet
from htc.config.base import Precision, Section
from htc.config.inference import Inference, Input
from htc.config.model import FPN, PAFPN, RPN, Cascade, Proposals, RecursiveFPN, Semantic
from htc.config.training import Training


class Config(Section):
    """Everything that defines a detector and its training. `category_ids` are the ids written to result files."""

    preset: str = "custom"
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    backbone: Backbone = ResNet()
    neck: Annotated[FPN | PAFPN | RecursiveFPN, Field(discriminator="kind")] = FPN()
    rpn: Proposals = RPN()
    cascade: Cascade = Cascade()
    semantic: Semantic | None = Semantic()
    inference: Inference = Inference()
    input: Input = Input()
    training: Training = Training()
    precision: Precision = "fp32"

    @property
    def num_classes(self) -> int:
        """K: object classes without the background."""
        return len(self.classes)

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if not self.classes:
            raise ValueError("classes is empty: name at least one class")
        if len(self.classes) != len(self.category_ids):
            raise ValueError(
                f"{len(self.classes)} classes but {len(self.category_ids)} category_ids: give one id a class"
            )
        if len(set(self.category_ids)) != len(self.category_ids):
            raise ValueError("category_ids repeat an id")
        if self.semantic is None and self.cascade.semantic_fusion != "none":
            raise ValueError(
                f"cascade.semantic_fusion is {self.cascade.semantic_fusion!r} but semantic is null: set "
                f"semantic_fusion to none"
            )
        if self.semantic is not None and self.semantic.channels != self.neck.channels:
            raise ValueError(
                f"semantic.channels {self.semantic.channels} must equal neck.channels {self.neck.channels}: their "
                f"features are added"
            )
        if self.rpn.kind == "guided_rpn" and self.neck.channels % 4:
            raise ValueError(
                f"rpn.kind guided_rpn needs neck.channels that divide by 4, not {self.neck.channels}: its features "
                f"are adapted in four groups"
            )
        if self.neck.kind == "rfp" and self.backbone.kind != "resnet":
            raise ValueError(
                f"neck.kind rfp feeds back into the stages of a ResNet: backbone.kind {self.backbone.kind} has "
                f"another neck, fpn or pafpn"
            )
        stages = [self.inference.box_stage, *(self.inference.score_stages or ()), *(self.inference.mask_stages or ())]
        for stage in stages:
            if stage is not None and stage > self.cascade.num_stages:
                raise ValueError(f"inference names stage {stage}, but cascade.num_stages is {self.cascade.num_stages}")
        return self

"""The whole network, from images to detections, as four public steps on tensors."""

from dataclasses import replace
from typing import Protocol

from jaxtyping import Float, Int
from torch import Tensor, nn

from htc.config import Config
from htc.model.backbone import channels, select_backbone
from htc.model.build import build_cascade, build_extensions, build_rpn
from htc.model.neck import build_neck
from htc.model.postprocess import NO_LIMITS, Limits, Selected, class_scores, final_boxes, segment, select, stage_masks
from htc.model.semantic import SemanticBranch
from htc.types import BoxStage, Features, RawDetections, Rois


class TrunkExtension(Protocol):
    """An additional part of the trunk: maps the normalized images and the features so far to new features."""

    def __call__(self, images: Tensor, features: Features, neck: nn.Module) -> Features: ...


class Detector(nn.Module):
    """Mask R-CNN, Cascade Mask R-CNN or HTC, depending on the configuration.

    `features` (trunk) -> `propose` -> `refine` -> `select` -> `segment`; `forward` chains them. Boxes from other
    sources can be merged between `select` and `segment`.

    Args:
        config: The configuration of the model.
        backbone: A custom module that replaces `config.backbone`: (B, 3, H, W) -> list, tuple or dict of four maps
            (B, C, H / s, W / s) of strides s = 4, 8, 16, 32. `self.config.backbone` then has the kind `custom`.

    Raises:
        ConfigError: `backbone` returns other maps, or the configuration is of kind `custom` and `backbone` is None.

    Example:
        >>> config = htc.load("run").config
        >>> detector = htc.Detector(config, backbone=MyBackbone())
        >>> losses = htc.TrainingObjective(detector, config)(batch)
    """

    def __init__(self, config: Config, backbone: nn.Module | None = None) -> None:
        super().__init__()
        self.config, self.backbone = select_backbone(config, backbone)
        self.neck = build_neck(channels(self.backbone), config.neck)
        self.rpn = build_rpn(config.neck.channels, config.rpn)
        self.semantic = SemanticBranch(config.neck.channels, config.semantic) if config.semantic else None
        self.roi = build_cascade(config)
        extensions = build_extensions(config)
        self.extensions = tuple(extensions)
        for name, extension in extensions.items():
            self.add_module(name, extension)
        self.fuses_semantic = config.cascade.semantic_fusion != "none"

    def forward(
        self, images: Float[Tensor, "B 3 H W"], sizes: Int[Tensor, "B 2"], limits: Limits = NO_LIMITS
    ) -> RawDetections:
        """Detect the instances in normalized, padded images of the given (height, width) without padding. -> detections
        in pixels of the network input
        """
        return self.detect(self.features(images), sizes, limits)

    def detect(self, features: Features, sizes: Int[Tensor, "B 2"], limits: Limits = NO_LIMITS) -> RawDetections:
        """Detect from the trunk's features: the part of `forward` after the trunk."""
        proposals, _ = self.propose(features, sizes)
        selected = self.select(self.refine(features, proposals), limits)
        masks = self.segment(features, selected.rois, selected.labels)
        return RawDetections(selected.rois.boxes, selected.scores, selected.labels, selected.rois.valid, masks)

    def features(self, images: Float[Tensor, "B 3 H W"], *, semantic_logits: bool = False) -> Features:
        """Run the trunk: backbone, pyramid, semantic feature; the semantic prediction only if `semantic_logits`.

        Without semantic fusion, the semantic branch runs only for its prediction.
        """
        images = images.to(self.rpn.conv.weight.dtype)
        features = Features(self.neck(self.backbone(images)), None, None)
        for name in self.extensions:
            extension: TrunkExtension = getattr(self, name)
            features = extension(images, features, self.neck)
        if self.semantic is None or not (self.fuses_semantic or semantic_logits):
            return features
        shared = self.semantic(features.pyramid)
        return replace(
            features,
            semantic=self.semantic.embedding(shared) if self.fuses_semantic else None,
            semantic_logits=self.semantic.logits(shared).float() if semantic_logits else None,
        )

    def propose(self, features: Features, sizes: Int[Tensor, "B 2"]) -> tuple[Rois, Float[Tensor, "B R"]]:
        """r_0: the best boxes of the RPN and their objectness."""
        return self.rpn.propose_at_test(self.rpn(features.pyramid), sizes)

    def refine(self, features: Features, rois: Rois) -> list[BoxStage]:
        """r_1 .. r_T with the class logits of each stage."""
        return self.roi.refine(*features.pooled, rois)

    def select(self, stages: list[BoxStage], limits: Limits = NO_LIMITS) -> Selected:
        """Select the best boxes by the combined scores of the stages."""
        rois, inference = stages[0].rois, self.config.inference
        scores, boxes = class_scores(stages, inference), final_boxes(self.roi, stages, inference)
        return select(scores, boxes, rois.valid, rois.sizes, inference, limits)

    def segment(self, features: Features, rois: Rois, labels: Int[Tensor, "B D"]) -> Float[Tensor, "B D S S"]:
        """Mask probabilities of the given boxes."""
        return segment(self.roi, *features.pooled, rois, labels, self.config.inference)

    def segment_stages(
        self, features: Features, rois: Rois, labels: Int[Tensor, "B D"], stages: tuple[int, ...]
    ) -> Float[Tensor, "T B D S S"]:
        """Mask probabilities of each of the given stages (from 1), not averaged."""
        return stage_masks(self.roi, *features.pooled, rois, labels, stages)

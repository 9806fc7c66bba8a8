"""The whole network: pictures in, detections out, as four public steps on tensors."""

from jaxtyping import Float, Int
from torch import Tensor, nn

from htc.config import RPN, Config, FineMask, GuidedRPN, Proposals, ResNet
from htc.model.backbone import build_backbone, channels
from htc.model.build import build_cascade
from htc.model.neck import build_neck
from htc.model.postprocess import Selected, class_scores, final_boxes, segment, segment_stages, select
from htc.model.rpn import ProposalHead
from htc.model.semantic import SemanticBranch
from htc.model.variants.fine_mask import DetailBranch
from htc.model.variants.guided_anchoring import GuidedHead
from htc.model.variants.recursive_pyramid import SecondLook
from htc.types import BoxStage, Features, RawDetections, Rois


class Detector(nn.Module):
    """Mask R-CNN, Cascade Mask R-CNN or HTC, as the configuration says.

    `features` (trunk) -> `propose` -> `refine` -> `select` -> `segment`; `forward` chains them. Boxes from anywhere can
    be merged between `select` and `segment`.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.backbone)
        self.neck = build_neck(channels(self.backbone), config.neck)
        self.rpn = build_rpn(config.neck.channels, config.rpn)
        self.semantic = SemanticBranch(config.neck.channels, config.semantic) if config.semantic else None
        self.roi = build_cascade(config)
        fine = config.cascade.mask_head
        self.second_look = build_second_look(config)
        self.detail = (
            DetailBranch(fine.detail_channels, config.cascade.mask_norm) if isinstance(fine, FineMask) else None
        )

    def forward(self, images: Float[Tensor, "B 3 H W"], sizes: Int[Tensor, "B 2"]) -> RawDetections:
        """Normalised, padded pictures and their own (height, width) -> detections in pixels of the network input."""
        return self.detect(self.features(images), sizes)

    def detect(self, features: Features, sizes: Int[Tensor, "B 2"]) -> RawDetections:
        """The region part: what `forward` makes of the trunk's features."""
        proposals, _ = self.propose(features, sizes)
        selected = self.select(self.refine(features, proposals))
        masks = self.segment(features, selected.rois, selected.labels)
        return RawDetections(selected.rois.boxes, selected.scores, selected.labels, selected.rois.valid, masks)

    def features(self, images: Float[Tensor, "B 3 H W"], *, semantic_logits: bool = False) -> Features:
        """The trunk: backbone, pyramid, semantic feature; the semantic prediction only where asked for."""
        images = images.to(self.rpn.conv.weight.dtype)
        pyramid = self.neck(self.backbone(images))
        if self.second_look is not None:
            pyramid = self.second_look(images, pyramid, self.neck)
        detail = None if self.detail is None else self.detail(images)
        if self.semantic is None:
            return Features(pyramid, None, None, detail)
        shared = self.semantic(pyramid)
        return Features(
            pyramid,
            self.semantic.embedding(shared),
            self.semantic.logits(shared).float() if semantic_logits else None,
            detail,
        )

    def propose(self, features: Features, sizes: Int[Tensor, "B 2"]) -> tuple[Rois, Float[Tensor, "B R"]]:
        """r_0: the RPN's best boxes and their objectness."""
        return self.rpn.propose_at_test(self.rpn(features.pyramid), sizes)

    def refine(self, features: Features, rois: Rois) -> list[BoxStage]:
        """r_1 .. r_T with each stage's class logits."""
        return self.roi.refine(*features.pooled, rois)

    def select(self, stages: list[BoxStage]) -> Selected:
        """The best boxes over all stages' scores."""
        rois, inference = stages[0].rois, self.config.inference
        return select(
            class_scores(stages, inference), final_boxes(self.roi, stages, inference), rois.valid, rois.sizes, inference
        )

    def segment(self, features: Features, rois: Rois, labels: Int[Tensor, "B D"]) -> Float[Tensor, "B D S S"]:
        """Mask probabilities of any boxes."""
        return segment(self.roi, *features.pooled, rois, labels, self.config.inference)

    def segment_stages(
        self, features: Features, rois: Rois, labels: Int[Tensor, "B D"], stages: tuple[int, ...]
    ) -> Float[Tensor, "T B D S S"]:
        """Mask probabilities of each of these stages (from 1) by itself."""
        return segment_stages(self.roi, *features.pooled, rois, labels, stages)


def build_second_look(config: Config) -> SecondLook | None:
    """The second step of a recursive pyramid, which the configuration allows with a ResNet alone; None for any other
    neck.
    """
    if config.neck.kind != "rfp":
        return None
    assert isinstance(config.backbone, ResNet)
    return SecondLook(config.backbone, config.neck.channels)


def build_rpn(channels: int, config: Proposals) -> ProposalHead | GuidedHead:
    """What makes proposals from the pyramid. All kinds have `propose_at_test` and `propose_in_training`."""
    match config:
        case RPN():
            return ProposalHead(channels, config)
        case GuidedRPN():
            return GuidedHead(channels, config)

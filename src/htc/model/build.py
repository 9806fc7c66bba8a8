"""Build the variants that a configuration selects: RoI pools, heads and flows of the cascade, the proposal head, and
extensions of the trunk. The parts do not depend on one another.
"""

from functools import partial

from torch import nn

from htc.config import RPN, Config, FineMask, FusionMask, GuidedRPN, NoMask, Proposals, ResNet
from htc.model.cascade import HybridTaskCascade
from htc.model.fusion import FusedPool, Pool, RegionPooling
from htc.model.heads import BOX_BINS, MASK_BINS, BoxHead, FirstLayer, MaskHead, plain_layer
from htc.model.layers import ConvBlock, initialize
from htc.model.rpn import ProposalHead
from htc.model.variants.adaptive_pool import POOLED_LEVELS, AdaptivePool, PackedFlow, over_levels
from htc.model.variants.fine_mask import FINER, DetailBranch, DetailPool, FineMaskHead
from htc.model.variants.fusion_mask import FusionMaskHead
from htc.model.variants.guided_anchoring import GuidedHead
from htc.model.variants.recursive_pyramid import RecursivePyramid
from htc.ops.roi_pool import roi_pool
from htc.ops.roi_pool_variants import precise_roi_pool, sampled_roi_pool

POOLINGS: dict[str, RegionPooling] = {"align": roi_pool, "precise": precise_roi_pool, "torchvision": sampled_roi_pool}


def build_rpn(channels: int, config: Proposals) -> ProposalHead | GuidedHead:
    """Build the proposal head. All kinds have `propose_at_test` and `propose_in_training`."""
    match config:
        case RPN():
            return ProposalHead(channels, config)
        case GuidedRPN():
            return GuidedHead(channels, config)


def build_extensions(config: Config) -> dict[str, nn.Module]:
    """Build the extensions of the trunk (`htc.model.detector.TrunkExtension`), by their names in the state dict."""
    extensions: dict[str, nn.Module] = {}
    if config.neck.kind == "rfp":
        assert isinstance(config.backbone, ResNet)  # guaranteed by the configuration
        extensions["second_look"] = RecursivePyramid(config.backbone, config.neck.channels)
    if isinstance(fine := config.cascade.mask_head, FineMask):
        extensions["detail"] = DetailBranch(fine.detail_channels, config.cascade.mask_norm)
    return extensions


def build_cascade(config: Config) -> HybridTaskCascade:
    """Build the RoI heads: pools, box heads, mask heads and mask flows."""
    cascade, width, first = config.cascade, config.neck.channels, _first_layer(config)
    box_heads = [BoxHead(width, config.num_classes, cascade, stds, first) for stds in cascade.delta_stds]
    mask_heads = (
        [] if isinstance(cascade.mask_head, NoMask) else [_mask_head(config) for _ in range(cascade.num_stages)]
    )
    flows = (
        [ConvBlock(cascade.mask_channels, width, 1) for _ in range(cascade.num_stages - 1)] if cascade.mask_flow else []
    )
    for flow in flows:
        initialize(flow)
    flows = [_flow(flow, config) for flow in flows]
    return HybridTaskCascade(_box_pool(config), _mask_pool(config), box_heads, mask_heads, flows, cascade.interleaved)


def _levels(config: Config) -> int:
    return POOLED_LEVELS if config.cascade.pooled_levels == "all" else 1


def _first_layer(config: Config) -> FirstLayer:
    return plain_layer if _levels(config) == 1 else over_levels


def _box_pool(config: Config) -> Pool:
    fuse = config.cascade.semantic_fusion in ("box", "both")
    pool = FusedPool(
        BOX_BINS, fuse=fuse, semantic_subdivide=MASK_BINS // BOX_BINS, pooling=POOLINGS[config.cascade.pooling]
    )
    return pool if _levels(config) == 1 else AdaptivePool(pool)


def _mask_pool(config: Config) -> Pool:
    cascade = config.cascade
    pool: Pool = FusedPool(
        MASK_BINS, fuse=cascade.semantic_fusion in ("mask", "both"), pooling=POOLINGS[cascade.pooling]
    )
    if _levels(config) > 1:
        pool = AdaptivePool(pool)
    return DetailPool(pool) if isinstance(cascade.mask_head, FineMask) else pool


def _mask_head(config: Config) -> MaskHead:
    cascade = config.cascade
    parts = (config.neck.channels, config.num_classes, cascade)
    match cascade.mask_head:
        case FineMask() as fine:
            return FineMaskHead(*parts, fine, _levels(config), _first_layer(config))
        case FusionMask():
            return FusionMaskHead(*parts, _first_layer(config))
        case _:
            return MaskHead(*parts, _first_layer(config))


def _flow(flow: nn.Module, config: Config) -> nn.Module:
    """Build G_t: a plain convolution if the mask path carries one feature, else a `PackedFlow` around it."""
    cascade, levels = config.cascade, _levels(config)
    packed = partial(PackedFlow, flow, cascade.mask_channels, levels)
    match cascade.mask_head:
        case FineMask() as fine:
            return packed(fine.detail_channels * FINER**2)
        case FusionMask():
            return packed(0)
        case _:
            return flow if levels == 1 else packed(0)

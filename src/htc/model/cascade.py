"""Hybrid Task Cascade: the paper's Eqs. 1-6.

Masks never feed back into boxes, so the box cascade runs first and each mask head reads its refined boxes; the same
forward serves training and test. `sample` selects the RoIs of each stage: all of them at test time, a balanced sample
in training.
"""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from htc.model.fusion import Pool
from htc.model.heads import BoxHead, MaskHead
from htc.ops.roi_pool import Pyramid
from htc.types import BoxStage, Rois

Sampler = Callable[[Rois, int], Rois]


def keep_all(rois: Rois, t: int) -> Rois:  # noqa: ARG001 - a sampler's signature
    """Sampler for test time: keep all RoIs."""
    return rois


class HybridTaskCascade(nn.Module):
    """T stages of box head B_t and mask head M_t; G_t = `mask_flows[t - 1]` if mask features flow between stages.

    x is the pyramid P2-P5, s the semantic feature S(x) or None. One stage, parallel, without mask flow and semantic
    fusion is Mask R-CNN.
    """

    def __init__(
        self,
        box_pool: Pool,
        mask_pool: Pool,
        box_heads: list[BoxHead],
        mask_heads: list[MaskHead],
        mask_flows: list[nn.Module],
        interleaved: bool,
    ) -> None:
        super().__init__()
        self.box_pool, self.mask_pool = box_pool, mask_pool
        self.box_heads: Sequence[BoxHead] = nn.ModuleList(box_heads)  # type: ignore[assignment]
        self.mask_heads: Sequence[MaskHead] = nn.ModuleList(mask_heads)  # type: ignore[assignment]
        self.mask_flows: Sequence[nn.Module] = nn.ModuleList(mask_flows)  # type: ignore[assignment]
        self.interleaved = interleaved

    def refine(self, x: Pyramid, s: Pyramid | None, rois: Rois, sample: Sampler = keep_all) -> list[BoxStage]:
        """Refine the proposals r_0 = `rois` (Eq. 1, boxes): r_t = B_t(P(x, r_{t-1})), for t = 1 .. T."""
        stages = []
        for t, head in enumerate(self.box_heads):
            rois = sample(rois, t)  # r_{t-1}
            class_logits, deltas = map(rois.unpack, head(self.box_pool(x, s, rois)))  # B_t(x_t^box), Eq. 6 in the pool
            refined = head.move(rois, deltas.detach(), class_logits)  # r_t
            stages.append(BoxStage(rois, class_logits, deltas, refined))
            rois = refined
        return stages

    def mask_rois(self, stage: BoxStage, t: int, sample: Sampler = keep_all) -> Rois:
        """RoIs that M_t is trained on. Eq. 2, interleaved: r_t, sampled again. Eq. 1, parallel: r_{t-1} as sampled."""
        return sample(stage.refined, t) if self.interleaved else stage.rois

    def mask_feature(self, x: Pyramid, s: Pyramid | None, rois: Rois, t: int) -> Tensor:
        """Training feature of mask head t (from 0); the heads before it run only if there is mask flow."""
        if self.mask_flows:
            return self.mask_features(x, s, rois, t + 1)[-1]
        return self.mask_heads[t].features(self.mask_pool(x, s, rois))

    def mask_features(self, x: Pyramid, s: Pyramid | None, rois: Rois, stages: int) -> list[Tensor]:
        """Mask features m_1^- .. m_stages^- of the RoIs, each (N, C, 14, 14).

        All preceding heads run on the same RoIs: features of other RoIs would not align.
        """
        pooled = self.mask_pool(x, s, rois)  # x^mask, Eq. 6 in the pool
        if not self.mask_flows:
            return [head.features(pooled) for head in self.mask_heads[:stages]]
        features = [self.mask_heads[0].features(pooled)]
        for head, flow in zip(self.mask_heads[1:stages], self.mask_flows, strict=False):
            # Eqs. 3-5: m_t^- = M_t^-(x^mask + G_t(m_{t-1}^-))
            features.append(head.features(pooled + flow(features[-1])))
        return features

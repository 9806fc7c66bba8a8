"""B_t and M_t: the box head and the mask head of one stage."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from htc.config import Cascade
from htc.model.layers import ConvBlock, initialize, initialize_output
from htc.ops import boxes as box_ops
from htc.types import Rois

BOX_BINS = 7
MASK_BINS = 14
FirstLayer = Callable[[Callable[[], nn.Module], int], nn.Module]
"""Makes a head's first layer from a factory of the plain one and the number of cells that a row of its input holds."""


def plain_layer(layer: Callable[[], nn.Module], cells: int) -> nn.Module:  # noqa: ARG001 - a FirstLayer's signature
    """The layer itself: the pool gives one feature a RoI."""
    return layer()


class BoxHead(nn.Module):
    """B_t: shared layers on 7x7 features, then K+1 class logits (background last) and box deltas.

    The shared layers are two fully connected ones in the paper; convolutions may come before them.

    Features are read pixel by pixel (7, 7, C), as the pool lays them out; the original flattens (C, 7, 7), so its first
    layer's columns are reordered when a checkpoint is converted.
    """

    def __init__(
        self,
        channels_in: int,
        num_classes: int,
        config: Cascade,
        stds: tuple[float, ...],
        first: FirstLayer = plain_layer,
    ) -> None:
        super().__init__()
        width = config.box_channels
        conv = partial(ConvBlock, channels_in, channels_in, 3, norm_kind=config.box_norm)
        self.convs = nn.ModuleList(conv() if i else first(conv, 1) for i in range(config.box_convs))
        initialize(self.convs)
        cells = BOX_BINS * BOX_BINS
        linear = partial(nn.Linear, channels_in * cells, width)
        shared = linear() if config.box_convs else first(linear, cells)
        self.fc = nn.ModuleList([shared, *(nn.Linear(width, width) for _ in range(config.box_fcs - 1))])
        self.classify = nn.Linear(width, num_classes + 1)
        self.regress = nn.Linear(width, 4 if config.class_agnostic_boxes else 4 * num_classes)
        self.stds = stds
        self.class_agnostic = config.class_agnostic_boxes
        for layer in self.fc.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        initialize_output(self.classify, 0.01)
        initialize_output(self.regress, 0.001)

    def forward(self, pooled: Float[Tensor, "N _ 7 7"]) -> tuple[Float[Tensor, "N classes"], Float[Tensor, "N deltas"]]:
        """-> class logits (N, K+1) and deltas (N, 4) or (N, 4 K), float32"""
        for conv in self.convs:
            pooled = conv(pooled)
        x = pooled.permute(0, 2, 3, 1).flatten(1)
        for layer in self.fc:
            x = layer(x).relu_()
        return self.classify(x).float(), self.regress(x).float()

    def move(self, rois: Rois, deltas: Float[Tensor, "B R deltas"], class_logits: Float[Tensor, "B R classes"]) -> Rois:
        """Apply the deltas (of the likeliest object class, where they are class-specific) and clip to the image."""
        if not self.class_agnostic:
            best = class_logits[..., :-1].argmax(-1)
            deltas = deltas.unflatten(-1, (-1, 4)).gather(2, best[..., None, None].expand(-1, -1, 1, 4)).squeeze(2)
        return rois.with_boxes(box_ops.clip(box_ops.decode(rois.boxes, deltas, self.stds), rois.sizes))

    def boxes_per_class(self, rois: Rois, deltas: Float[Tensor, "B R deltas"]) -> Float[Tensor, "B R K 4"]:
        """Where each class puts each region; K = 1 stands for all classes when boxes are class-agnostic."""
        moved = box_ops.decode(rois.boxes[:, :, None], deltas.unflatten(-1, (-1, 4)), self.stds)
        return box_ops.clip(moved, rois.sizes)


class MaskHead(nn.Module):
    """M_t = prediction after M_t^-: four 3x3 convolutions give the feature that flows; 2x2 deconvolution, 1x1
    prediction.
    """

    def __init__(self, channels_in: int, num_classes: int, config: Cascade, first: FirstLayer = plain_layer) -> None:
        super().__init__()
        width = config.mask_channels
        conv = partial(ConvBlock, channels_out=width, kernel=3, norm_kind=config.mask_norm)
        further = range(config.mask_convs - 1)
        self.convs = nn.ModuleList([first(partial(conv, channels_in), 1), *(conv(width) for _ in further)])
        self.upsample = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.logits = nn.Conv2d(width, num_classes, 1)
        initialize(self)

    def features(self, x: Float[Tensor, "N _ 14 14"]) -> Float[Tensor, "N width 14 14"]:
        """M_t^-: the mask feature before the deconvolution."""
        for conv in self.convs:
            x = conv(x)
        return x

    def forward(self, features: Float[Tensor, "N width 14 14"], labels: Int[Tensor, " N"]) -> Float[Tensor, "N 28 28"]:
        """Logits of each RoI's own class, float32."""
        # The deconvolution's 2x2 outputs of a pixel do not overlap: one product gives all four, and only the logits,
        # one channel instead of `width`, are put into their places on the finer grid. Bit for bit the same, a third
        # faster.
        count, width, rows, columns = features.shape
        kernel, bias = self.upsample.weight.permute(2, 3, 1, 0).flatten(0, 2), self.upsample.bias
        assert bias is not None
        x = F.linear(features.permute(0, 2, 3, 1).flatten(0, 2), kernel, bias.repeat(4)).relu_()
        logits = own_class_logits(x.view(count, 4 * rows * columns, width), self.logits, labels)
        return logits.view(count, rows, columns, 2, 2).transpose(2, 3).reshape(count, 2 * rows, 2 * columns)


def own_class_logits(
    cells: Float[Tensor, "N cells C"], prediction: nn.Conv2d, labels: Int[Tensor, " N"]
) -> Float[Tensor, "N cells 1"]:
    """A 1x1 prediction for each RoI's own class alone, float32: the other classes' maps are never computed."""
    weight, bias = prediction.weight.flatten(1)[labels], prediction.bias
    assert bias is not None
    return torch.baddbmm(bias[labels].view(-1, 1, 1), cells, weight[..., None]).float()

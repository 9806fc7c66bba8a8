"""The box head B_t and the mask head M_t of one stage."""

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
"""Builds a head's first layer from a factory of the plain layer and the number of cells in one row of its input."""


def plain_layer(layer: Callable[[], nn.Module], cells: int) -> nn.Module:  # noqa: ARG001 - a FirstLayer's signature
    """Build the plain layer: the pool gives one feature per RoI."""
    return layer()


class BoxHead(nn.Module):
    """Box head B_t: shared layers on 7x7 features, then K+1 class logits (background last) and box deltas.

    The shared layers are two fully connected ones in the paper; convolutions may precede them.

    Features are read pixel by pixel (7, 7, C), the layout of the pool; mmdetection flattens (C, 7, 7), so the columns
    of the first layer are reordered when a checkpoint is converted.
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
        """-> class logits (N, K+1) and deltas (N, 4) or (N, 4 K), float32."""
        for conv in self.convs:
            pooled = conv(pooled)
        x = pooled.permute(0, 2, 3, 1).flatten(1)
        for layer in self.fc:
            x = layer(x).relu_()
        return self.classify(x).float(), self.regress(x).float()

    def move(self, rois: Rois, deltas: Float[Tensor, "B R deltas"], class_logits: Float[Tensor, "B R classes"]) -> Rois:
        """Apply the deltas (if class-specific, those of the most likely object class) and clip to the image."""
        if not self.class_agnostic:
            best = class_logits[..., :-1].argmax(-1)
            deltas = deltas.unflatten(-1, (-1, 4)).gather(2, best[..., None, None].expand(-1, -1, 1, 4)).squeeze(2)
        return rois.with_boxes(box_ops.clip(box_ops.decode(rois.boxes, deltas, self.stds), rois.sizes))

    def boxes_per_class(self, rois: Rois, deltas: Float[Tensor, "B R deltas"]) -> Float[Tensor, "B R K 4"]:
        """Boxes of each RoI for each class; K = 1 if boxes are class-agnostic."""
        moved = box_ops.decode(rois.boxes[:, :, None], deltas.unflatten(-1, (-1, 4)), self.stds)
        return box_ops.clip(moved, rois.sizes)


class MaskHead(nn.Module):
    """Mask head M_t: four 3x3 convolutions (M_t^-), whose output flows to the next stage; 2x2 deconvolution; 1x1
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
        """Mask feature M_t^-, before the deconvolution."""
        for conv in self.convs:
            x = conv(x)
        return x

    def forward(self, features: Float[Tensor, "N width 14 14"], labels: Int[Tensor, " N"]) -> Float[Tensor, "N 28 28"]:
        """Mask logits of each RoI's class, float32."""
        # The 2x2 outputs of the deconvolution for different pixels do not overlap: one matrix product computes all
        # four, and only the logits (one channel instead of `width`) are rearranged on the finer grid. Bit for bit the
        # same, a third faster.
        count, width, rows, columns = features.shape
        kernel, bias = self.upsample.weight.permute(2, 3, 1, 0).flatten(0, 2), self.upsample.bias
        assert bias is not None
        x = F.linear(features.permute(0, 2, 3, 1).flatten(0, 2), kernel, bias.repeat(4)).relu_()
        logits = own_class_logits(x.view(count, 4 * rows * columns, width), self.logits, labels)
        return logits.view(count, rows, columns, 2, 2).transpose(2, 3).reshape(count, 2 * rows, 2 * columns)


def own_class_logits(
    cells: Float[Tensor, "N cells C"], prediction: nn.Conv2d, labels: Int[Tensor, " N"]
) -> Float[Tensor, "N cells 1"]:
    """1x1 prediction of each RoI's class only, float32: the maps of the other classes are never computed."""
    weight, bias = prediction.weight.flatten(1)[labels], prediction.bias
    assert bias is not None
    return torch.baddbmm(bias[labels].view(-1, 1, 1), cells, weight[..., None]).float()

"""Parameters and operations of every preset, counted from shapes on the meta device.

`python -m htc.benchmark.sizes` prints the table that `htc models` shows (src/htc/presets/sizes.json).
"""

import json
import sys
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from htc.config import Config
from htc.model.detector import Detector
from htc.model.heads import BOX_BINS, MASK_BINS
from htc.model.variants.adaptive_pool import POOLED_LEVELS
from htc.presets import PRESETS, preset

IMAGE = (800, 1344)
"""800 x 1333, padded to multiples of 32."""
PROPOSALS, DETECTIONS = 1000, 100


@dataclass(frozen=True)
class Size:
    """Millions of parameters, and GFLOP for one image (a multiply-add is 2): trunk, 1000 proposals in every stage, 100
    masks in every stage.
    """

    parameters: float
    gflop: float


def size_of(config: Config) -> Size:
    """Count the parameters and operations on the meta device."""
    with torch.device("meta"), torch.no_grad():
        detector = Detector(config).eval()
        with FlopCounterMode(
            display=False, custom_mapping={torch.ops.torchvision.deform_conv2d: deformable_flops}
        ) as counter:
            features = detector.features(torch.empty(1, 3, *IMAGE))
            detector.rpn(features.pyramid)
            channels = config.neck.channels * (POOLED_LEVELS if config.cascade.pooled_levels == "all" else 1)
            for head in detector.roi.box_heads:
                head(torch.empty(PROPOSALS, channels, BOX_BINS, BOX_BINS))
            masks(detector, channels)
    return Size(
        round(sum(p.numel() for p in detector.parameters()) / 1e6, 2), round(counter.get_total_flops() / 1e9, 1)
    )


def masks(detector: Detector, channels: int) -> None:
    """Run the mask heads of all stages on the detections, with mask flow."""
    pooled, labels = torch.empty(DETECTIONS, channels, MASK_BINS, MASK_BINS), torch.zeros(DETECTIONS, dtype=torch.long)
    feature = None
    for t, head in enumerate(detector.roi.mask_heads):
        flow = detector.roi.mask_flows[t - 1](feature) if t and detector.roi.mask_flows else 0
        feature = head.features(pooled + flow)
        head(feature, labels)


def deformable_flops(x: Any, weight: Any, offset: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:  # noqa: ARG001 - the operator's signature
    """Count as a plain convolution of these shapes, without the bilinear sampling."""
    return 2 * prod(out_shape) * prod(weight[1:])


def main() -> None:
    """Write the sizes of all presets as JSON to standard output."""
    table = {name: asdict(size_of(preset(name))) for name in PRESETS}
    lines = [f"  {json.dumps(name)}: {json.dumps(size)}" for name, size in table.items()]
    sys.stdout.write("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()

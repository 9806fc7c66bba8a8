"""Export a detector and compare the graph with it at other sizes; its own process, since the suite's shape checks
cannot be traced.

Run as `python exporting.py small|PRESET`.
"""

import sys
from functools import partial

import torch

from htc.config import Config
from htc.model.detector import Detector
from htc.model.fusion import FusedPool
from htc.ops.roi_pool import roi_pool
from htc.presets import preset
from htc.types import RawDetections

EXPORTED_SIZE = (128, 160)
OTHER_SIZES = ((96, 224), (192, 128))


def small() -> Config:
    """The demo's HTC, two stages of its sizes."""
    config = preset("htc_r18_small")
    return config.replace(inference={"max_detections": 20})


def compare(config: Config) -> None:
    """Raises AssertionError where graph and detector differ."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    detector = Detector(config).eval()
    for name, parameter in detector.named_parameters():
        if name.endswith("weight") and any(part in name for part in ("classify", "objectness", "regress")):
            torch.nn.init.normal_(parameter, std=0.01)  # spread, yet no score is saturated
    # In float64, because eager and graph add up in other orders: which of two nearly equal boxes survives must not
    # depend on the processor.
    detector.double()
    for part in detector.modules():
        if isinstance(part, FusedPool):
            part.pooling = partial(
                roi_pool, backend="torchvision"
            )  # as in the graph; that the backends agree is tested where they are (tests/ops)
    sides = {2: 32 * torch.export.Dim("rows", min=2, max=48), 3: 32 * torch.export.Dim("columns", min=2, max=48)}
    example = (torch.randn(1, 3, *EXPORTED_SIZE, dtype=torch.float64), torch.tensor([[120, 150]]))
    with torch.no_grad():
        graph = torch.export.export(
            detector, example, dynamic_shapes={"images": sides, "sizes": None}, strict=False
        ).module()
        for height, width in OTHER_SIZES:
            images, sizes = (
                torch.randn(1, 3, height, width, dtype=torch.float64),
                torch.tensor([[height - 3, width - 5]]),
            )
            expected, found = detector(images, sizes), graph(images, sizes)
            assert isinstance(found, RawDetections)
            capacity = config.inference.max_detections  # fixed, with empty slots
            assert found.valid.shape == found.masks.shape[:2] == (1, capacity)
            assert expected.valid.sum() > 5, "nothing to compare"
            assert torch.equal(found.valid, expected.valid)
            torch.testing.assert_close(found.scores, expected.scores, atol=1e-4, rtol=0)
            # of boxes with equal scores another may come first: to each its nearest of the same label
            distance = (found.boxes[0, None] - expected.boxes[0, :, None]).abs().amax(-1)
            distance = (
                distance.masked_fill(found.labels[0, None] != expected.labels[0, :, None], float("inf"))
                + 1e6 * ~(found.valid[0])
            )
            nearest = distance.min(1)
            same = expected.valid[0] & (nearest.values < 1e-2)
            assert same.sum() >= 0.97 * expected.valid.sum(), nearest.values
            torch.testing.assert_close(
                found.masks[0, nearest.indices[same]], expected.masks[0, same], atol=1e-3, rtol=0
            )


if __name__ == "__main__":
    compare(small() if sys.argv[1] == "small" else preset(sys.argv[1]))

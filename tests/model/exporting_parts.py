"""Export a detector of the newer parts and compare the graph with it; run as `python exporting_parts.py NAME`. Exits
with 2 after a ConfigError.
"""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

from htc.errors import ConfigError
from htc.model.fusion import FusedPool
from htc.ops.roi_pool import roi_pool
from model.parts import PARTS
from small_detector import random_images, seeded_detector

HEIGHT, WIDTH = 96, 128
ONE_SIZE = ("Swin", "ConvNeXt")
"""timm's networks of these kinds ask how large the map is; their graphs are of one image size."""


def compare(name: str) -> None:
    """Raises AssertionError where graph and detector differ; in float64, where no two boxes are near ties by
    rounding.
    """
    torch.set_num_threads(1)
    detector = seeded_detector(PARTS[name], spread=0.02).eval().double()
    for part in detector.modules():
        if isinstance(part, FusedPool) and part.pooling is roi_pool:
            part.pooling = partial(roi_pool, backend="torchvision")  # as in the graph
    sides = {2: 32 * torch.export.Dim("rows", min=2, max=48), 3: 32 * torch.export.Dim("columns", min=2, max=48)}
    example = random_images(1, HEIGHT, WIDTH).double(), torch.tensor([[HEIGHT - 6, WIDTH - 5]])
    one_size = name in ONE_SIZE
    with torch.no_grad():
        graph = torch.export.export(
            detector, example, dynamic_shapes=None if one_size else {"images": sides, "sizes": None}, strict=False
        ).module()
        for height, width in ((HEIGHT, WIDTH), *(() if one_size else ((160, 224), (128, 96)))):
            images, sizes = random_images(1, height, width, seed=1).double(), torch.tensor([[height - 6, width - 5]])
            expected, found = detector(images, sizes), graph(images, sizes)
            assert expected.valid.sum() > 5, "nothing to compare"
            for one, other in zip(vars(expected).values(), vars(found).values(), strict=True):
                torch.testing.assert_close(other, one, atol=1e-4, rtol=1e-4)


if __name__ == "__main__":
    try:
        compare(sys.argv[1])
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)

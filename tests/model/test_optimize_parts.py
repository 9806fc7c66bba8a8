"""The newer parts, made ready to predict: the same detections as the trained detector, in bfloat16 near them, and as
an exported graph.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from htc.config import Config
from htc.model.detector import Detector
from htc.model.optimize import for_inference
from htc.types import RawDetections
from model.parts import PARTS
from small_detector import random_images, seeded_detector

SIZES = torch.tensor([[64, 96]])
EXPORTED = [name for name in PARTS if name != "precise RoI pooling"]


def trained(config: Config) -> Detector:
    """As after training: norms that are not the identity."""
    detector = seeded_detector(config)
    numbers = torch.Generator().manual_seed(7)
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.7, 1.5),
                (module.weight, 0.7, 1.2),
                (module.bias, -0.2, 0.2),
            ):
                assert tensor is not None
                tensor.data.uniform_(low, high, generator=numbers)
    return detector.eval()


def found_again(expected: RawDetections, found: RawDetections) -> float:
    """The share of detections that the other has too: same label, a box within half a pixel, score and mask within
    0.01.

    Not all: in a random network some boxes lie within rounding of the threshold of the suppression.
    """
    wanted = expected.valid[0]
    distance = (found.boxes[0, None] - expected.boxes[0, :, None]).abs().amax(-1)
    same = (found.labels[0, None] == expected.labels[0, :, None]) & found.valid[0]
    nearest = distance.masked_fill(~same, float("inf")).min(1)
    near = nearest.values < 0.5
    scores = (found.scores[0, nearest.indices] - expected.scores[0]).abs() < 0.01
    masks = (found.masks[0, nearest.indices] - expected.masks[0]).abs().amax((1, 2)) < 0.01
    return float((near & scores & masks)[wanted].float().mean())


@pytest.mark.parametrize("name", PARTS)
@torch.no_grad()
def test_the_same_detections_and_in_bfloat16_the_same_features(name: str) -> None:
    detector = trained(PARTS[name])
    expected = detector(random_images(1), SIZES)
    assert expected.valid.sum() > 5, "nothing to compare"
    assert found_again(expected, for_inference(detector)(random_images(1), SIZES)) >= 0.8
    rounded = for_inference(detector, "bf16")
    assert {p.dtype for p in rounded.parameters()} == {torch.bfloat16}
    for level, exact in zip(
        rounded.features(random_images(1)).pyramid, detector.features(random_images(1)).pyramid, strict=True
    ):
        assert level.dtype == torch.bfloat16
        assert (level.float() - exact).abs().mean() < 0.05 * exact.std() + 1e-3
    found = rounded(random_images(1), SIZES)
    assert found.valid.any()
    assert found.boxes.dtype == found.scores.dtype == found.masks.dtype == torch.float32
    assert all(values.isfinite().all() for values in (found.boxes, found.scores, found.masks))


def export(name: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, since the suite's shape checks cannot be traced."""
    return subprocess.run(
        [sys.executable, Path(__file__).with_name("exporting_parts.py"), name],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTED)
def test_parts_export_and_agree(name: str) -> None:
    done = export(name)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_what_cannot_be_exported_is_named() -> None:
    done = export("precise RoI pooling")
    assert done.returncode == 2
    assert "cascade.pooling precise cannot be exported" in done.stderr
    assert "align" in done.stderr

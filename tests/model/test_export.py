"""The whole detector as one exported graph, from image tensor to detections."""

import subprocess
import sys
from pathlib import Path

import pytest


def export(name: str) -> None:
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("exporting.py"), name], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_small_htc_exports_and_agrees_at_other_sizes() -> None:
    export("small")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["htc_r50_fpn_1x_coco", "mask_rcnn_r50_fpn_1x_coco"])
def test_full_models_export_and_agree_at_other_sizes(name: str) -> None:
    export(name)

"""A small model and images for the verbs, and the command line called in this process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from htc.checkpoint.native import save_pretrained
from htc.cli.app import run
from htc.config import Config
from htc.model.detector import Detector
from htc.settings.layers import from_values, resolve

SMALL = {
    "preset": "htc_r18_small",
    "classes": ["disc", "square"],
    "category_ids": [3, 7],
    "neck": {"channels": 32},
    "semantic": {"channels": 32, "convs": 1, "classes": 3},
    "cascade": {"box_channels": 32, "mask_channels": 16, "mask_convs": 1, "samples": 16},
    "rpn": {"proposals": 50, "training_proposals": 50, "samples": 32},
    "inference": {"max_detections": 20},
    "input": {"short_edge": 64, "long_edge": 128},
    "training": {"epochs": 1, "batch_size": 2, "warmup_steps": 1, "augmentation": {"crop": None}},
}


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def htc(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Calls the command line in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Result:
        code = run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Result(code, out, err)

    return call


@pytest.fixture(scope="module")
def small_config() -> Config:
    return resolve(from_values(SMALL), "htc_r18_small")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, small_config: Config) -> Path:
    """A native folder with random weights that finds something in every image."""
    torch.manual_seed(0)
    return save_pretrained(Detector(small_config), small_config, tmp_path_factory.mktemp("native") / "model")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images, the last without objects, with COCO annotations of training and validation."""
    folder = tmp_path_factory.mktemp("data")
    numbers = np.random.default_rng(0)
    for split in ("train", "val"):
        (folder / split).mkdir()
        images, annotations = [], []
        for index in range(3):
            pixels = numbers.integers(0, 60, (64, 80, 3), dtype=np.uint8)
            if index < 2:
                pixels[10:40, 20:60] = 220
                box = {"bbox": [20, 10, 40, 30], "segmentation": [[20, 10, 60, 10, 60, 40, 20, 40]], "area": 1200}
                annotations.append(
                    {"id": index + 1, "image_id": index + 5, "category_id": (3, 7)[index], "iscrowd": 0, **box}
                )
            Image.fromarray(pixels).save(folder / split / f"image{index}.png")
            images.append({"id": index + 5, "file_name": f"image{index}.png", "height": 64, "width": 80})
        content = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": 3, "name": "disc"}, {"id": 7, "name": "square"}],
        }
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return folder

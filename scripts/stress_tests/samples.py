"""Small models, datasets and random values that the stress tests share."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from PIL import Image
from pycocotools import mask as coco_masks
from torch import Tensor

from htc.config import FPN, RPN, AdamW, Augmentation, Cascade, Config, Inference, Input, ResNet, Semantic, Training
from htc.model.detector import Detector

CATEGORIES = [{"id": 4, "name": "disc"}, {"id": 9, "name": "square"}]


def tiny_config(**inference: Any) -> Config:
    """Return a small HTC with every part: three stages, mask flow, semantic fusion."""
    return Config(
        classes=("disc", "square"),
        category_ids=(4, 9),
        backbone=ResNet(depth=18, norm="group", frozen_stages=-1),
        neck=FPN(channels=16, norm="group"),
        rpn=RPN(
            anchor_scale=4.0,
            training_candidates_per_level=50,
            training_proposals=50,
            candidates_per_level=50,
            proposals=50,
        ),
        cascade=Cascade(samples=16, box_channels=16, mask_channels=16, mask_convs=1, mask_norm="group"),
        semantic=Semantic(classes=2, channels=16, convs=1, norm="group"),
        inference=Inference(**{"max_detections": 20, "score_threshold": 0.05, **inference}),
        input=Input(short_edge=64, long_edge=96, max_scale=1.0),
        training=Training(
            epochs=2,
            warmup_steps=2,
            batch_size=2,
            clip_gradients=10.0,
            optimizer=AdamW(lr=1e-3),
            average_decay=0.9,
            augmentation=Augmentation(horizontal_flip=0.5, vertical_flip=0.5, crop=(64, 64), resize=False),
        ),
    )


def random_state(config: Config, seed: int = 0) -> dict[str, Tensor]:
    """Return the weights of a new model; its scores are spread, so that it has detections of every score."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        detector = Detector(config)
        for name, parameter in detector.named_parameters():
            if name.endswith("weight") and any(part in name for part in ("classify", "objectness", "logits")):
                torch.nn.init.normal_(parameter, std=0.3)
    return detector.state_dict()


def generator_of(numbers: random.Random) -> Generator:
    """Return NumPy's generator with a seed of `numbers`."""
    return np.random.default_rng(numbers.getrandbits(64))


def random_mask(generator: Generator, height: int, width: int) -> np.ndarray:
    """Return a mask of one of several kinds: empty, full, noise, stripes, discs, single pixels."""
    kind = generator.integers(7)
    if kind == 0:
        return np.full((height, width), generator.integers(2), bool)
    if kind == 1:
        return generator.random((height, width)) < generator.random()
    if kind == 2:
        return (np.add.outer(np.arange(height), np.arange(width)) // generator.integers(1, 9)) % 2 == 0
    mask = np.zeros((height, width), bool)
    if kind == 3:
        mask[generator.integers(height), generator.integers(width)] = True
        return mask
    rows, columns = np.mgrid[:height, :width]
    for _ in range(generator.integers(1, 4)):
        y, x, radius = generator.uniform(-5, height + 5), generator.uniform(-5, width + 5), generator.uniform(1, 40)
        away = np.hypot(rows - y, columns - x) if kind < 6 else np.maximum(abs(rows - y), abs(columns - x))
        mask ^= away <= radius
    return mask


def encoded(mask: np.ndarray) -> dict[str, Any]:
    """Return the mask as COCO RLE with counts as text, by pycocotools."""
    runs = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(size) for size in runs["size"]], "counts": runs["counts"].decode("ascii")}


def write_dataset(folder: Path, name: str, images: int, seed: int, objects: int = 3) -> Path:
    """Write images of bright discs and squares on noise, and `folder/<name>.json`; returns the path of the latter."""
    generator = np.random.default_rng(seed)
    (folder / name).mkdir(parents=True)
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": CATEGORIES}
    rows, columns = np.mgrid[:72, :80]
    for number in range(images):
        pixels = generator.integers(0, 60, (72, 80, 3), dtype=np.uint8)
        for _ in range(0 if number == 1 else objects):
            y, x, radius = *generator.integers(12, 60, 2), generator.integers(5, 12)
            disc = generator.random() < 0.5
            away = np.hypot(rows - y, columns - x) if disc else np.maximum(abs(rows - y), abs(columns - x))
            mask = away <= radius
            pixels[mask] = (220, 90, 90) if disc else (90, 220, 90)
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": number + 1,
                    "category_id": 4 if disc else 9,
                    "iscrowd": 0,
                    "area": float(mask.sum()),
                    "bbox": coco_masks.toBbox(coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))).tolist(),
                    "segmentation": encoded(mask)
                    if generator.random() < 0.5
                    else [[float(v) for v in (x - 4, y - 4, x + 4, y - 4, x + 4, y + 4, x - 4, y + 4)]],
                }
            )
        content["images"].append({"id": number + 1, "file_name": f"{number}.png", "height": 72, "width": 80})
        Image.fromarray(pixels).save(folder / name / f"{number}.png")
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def mutated(content: bytes, numbers: random.Random) -> bytes:
    """Return the bytes with one to four random changes: flipped, cut, removed, repeated, inserted, overwritten."""
    changed = bytearray(content)
    for _ in range(numbers.choice((1, 1, 1, 2, 4))):
        size = len(changed)
        start = numbers.randrange(size + 1) if numbers.random() < 0.5 else numbers.randrange(min(size, 512) + 1)
        length = min(size - start, numbers.choice((1, 1, 2, 4, 8, 64, 1024)))
        match numbers.randrange(6):
            case 0:
                del changed[start:]
            case 1:
                del changed[start : start + length]
            case 2:
                changed[start:start] = changed[start : start + length] * numbers.choice((1, 2, 50))
            case 3:
                changed[start:start] = numbers.randbytes(length)
            case 4:
                changed[start : start + length] = numbers.choice((b"\x00", b"\xff")) * length
            case _:
                for position in range(start, start + length):
                    changed[position] ^= 1 << numbers.randrange(8)
    return bytes(changed)

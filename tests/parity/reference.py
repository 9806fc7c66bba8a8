"""A parity case: what the original implementation computed once on generated weights, and the same input for ours.

The numbers come from mmdetection 3.3.0 with mmcv 2.1.0 on a CPU in float32. `cases/NAME.json.gz` holds parameter shapes
(`spec`), losses, gradient norms and masks; `cases/NAME.npz` the arrays. Weights are drawn from (seed, name, shape) by
`seeded_weights`.
"""

import gzip
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor

from htc.checkpoint.load import load_model
from htc.config import Config
from htc.model.detector import Detector
from htc.presets.coco import COCO_CLASSES
from htc.types import Batch, GroundTruth, MaskCrops
from parity.seeded_weights import seeded_state_dict

HERE = Path(__file__).parent
HEIGHT, WIDTH = 320, 448
OVERRIDES: dict[str, dict] = {
    "htc_r50_fpn_no_mask_flow": {"cascade": {"mask_flow": False}},
    "htc_r50_fpn_fusion_box": {"cascade": {"semantic_fusion": "box"}},
    "htc_r50_fpn_soft_nms": {"inference": {"soft_nms": {"kind": "linear"}}},
    "htc_r50_fpn_soft_nms_gaussian": {"inference": {"soft_nms": {"kind": "gaussian"}}},
}
WITHOUT_SAMPLING = 1_000_000
"""The reference trained on every matched candidate, so that its losses do not depend on random numbers."""


@dataclass(frozen=True)
class Case:
    """One model of the original: its expected numbers, and our detector with the same weights."""

    expected: dict
    arrays: dict[str, np.ndarray]
    detector: Detector
    original_names: dict[str, str]
    """Our parameter name -> the original's."""

    @property
    def config(self) -> Config:
        return self.detector.config


def write_checkpoint(name: str, path: Path) -> Path:
    """The case's weights in a file as the original's model zoo ships them."""
    expected = read_expected(name)
    weights = {
        key: torch.from_numpy(value) for key, value in seeded_state_dict(expected["spec"], expected["seed"]).items()
    }
    torch.save({"meta": {"CLASSES": COCO_CLASSES}, "state_dict": weights}, path)
    return path


def read_expected(name: str) -> dict:
    """The scalars, losses and masks of a case."""
    return json.loads(gzip.decompress((HERE / "cases" / f"{name}.json.gz").read_bytes()))


def load_case(name: str, folder: Path) -> Case:
    """Write the checkpoint, load it the way a user does, and set training up as the reference ran it."""
    path = write_checkpoint(name, folder / f"{name}.pth")
    loaded = load_model(path, overrides=OVERRIDES.get(name))
    path.unlink()  # hundreds of MB
    config = without_sampling(loaded.config)
    detector = Detector(config)
    detector.load_state_dict(loaded.state_dict)
    with np.load(HERE / "cases" / f"{name}.npz") as arrays:
        return Case(
            read_expected(name),
            dict(arrays),
            detector.to(memory_format=torch.channels_last),
            {ours: theirs for theirs, ours in loaded.report.renamed},
        )


def without_sampling(config: Config) -> Config:
    """Every candidate is used, 500 proposals an image, semantic loss over all pixels: the reference's settings."""
    rpn = {"samples": WITHOUT_SAMPLING, "training_proposals": 500}
    cascade = {"samples": WITHOUT_SAMPLING, "positive_fraction": 0.5}
    return config.replace(rpn=rpn, cascade=cascade, semantic=config.semantic and {"loss_average": "all"})


def image(index: int) -> Tensor:
    """(3, 320, 448), normalized."""
    pixels = np.array(Image.open(HERE / "images" / f"{index}.png").convert("RGB"))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)))
    return (torch.from_numpy(pixels).permute(2, 0, 1).float() - mean) / std


def semantic_map(index: int) -> Tensor:
    """(320, 448) uint8."""
    return torch.from_numpy(np.array(Image.open(HERE / "images" / f"{index}_semantic.png")))


def training_batch(case: Case) -> Batch:
    """Both images, whole."""
    objects = json.loads((HERE / "images" / "inputs.json").read_text())["images"]
    truths = tuple(ground_truth(objects[i]["objects"] + case.expected["extra_objects"][i]) for i in range(2))
    return _batch(case, [image(0), image(1)], [(HEIGHT, WIDTH)] * 2, truths, [semantic_map(0), semantic_map(1)])


def padded_batch(case: Case) -> Batch:
    """Image 0 cut to 288 x 400 and padded, image 1 without objects."""
    cut, cut_map = torch.zeros(3, HEIGHT, WIDTH), torch.full((HEIGHT, WIDTH), 255, dtype=torch.uint8)
    cut[:, :288, :400], cut_map[:288, :400] = image(0)[:, :288, :400], semantic_map(0)[:288, :400]
    truths = (ground_truth(case.expected["padded_objects"]), ground_truth([]))
    return _batch(case, [cut, image(1)], [(288, 400), (HEIGHT, WIDTH)], truths, [cut_map, semantic_map(1)])


def ground_truth(objects: list[dict]) -> GroundTruth:
    """The objects of an image; their masks as crops."""
    pixels, sizes, offsets = [np.zeros(0, np.uint8)], [], []
    for item in objects:
        bitmap = coco_mask.decode(item["mask_rle"])
        rows, columns = np.nonzero(bitmap.any(1))[0], np.nonzero(bitmap.any(0))[0]
        crop = bitmap[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        pixels.append(crop.ravel())
        sizes.append(crop.shape)
        offsets.append((int(columns[0]), int(rows[0])))
    masks = MaskCrops(
        torch.from_numpy(np.concatenate(pixels)),
        torch.tensor(sizes, dtype=torch.long).view(-1, 2),
        torch.tensor(offsets, dtype=torch.long).view(-1, 2),
        (HEIGHT, WIDTH),
    )
    boxes = torch.tensor([item["box_xyxy"] for item in objects], dtype=torch.float32).view(-1, 4)
    return GroundTruth(
        boxes, torch.tensor([item["label"] for item in objects], dtype=torch.long), masks, torch.zeros(0, 4)
    )


def our_loss_name(theirs: str) -> str:
    """s0.loss_cls -> stage1.class; Mask R-CNN's losses carry no stage."""
    common = {"loss_rpn_cls": "rpn.class", "loss_rpn_bbox": "rpn.box", "loss_semantic_seg": "semantic"}
    common |= {"rpn_loss_anchor_loc": "rpn.location", "rpn_loss_anchor_shape": "rpn.shape"}
    if theirs in common:
        return common[theirs]
    stage = re.match(r"s(\d)\.", theirs)
    part = {"loss_cls": "class", "loss_bbox": "box", "loss_mask": "mask"}[
        theirs.removeprefix(stage[0] if stage else "")
    ]
    return f"stage{int(stage[1]) + 1 if stage else 1}.{part}"


def _batch(
    case: Case,
    views: list[Tensor],
    sizes: list[tuple[int, int]],
    truths: tuple[GroundTruth, ...],
    maps: list[Tensor],
) -> Batch:
    images = torch.stack(views).contiguous(memory_format=torch.channels_last)
    return Batch(
        images, torch.tensor(sizes), truths, torch.stack(maps) if case.config.semantic else None, (0, 1), (0, 1)
    )

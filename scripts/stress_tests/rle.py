"""Random masks through every function of ours for run lengths, compared with pycocotools to the bit."""

import random
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_masks

from htc.data.dataset import RunLengths
from htc.data.mask_encodings import counts_of, decode_mask, read_counts, tight
from htc.ops.masks import MaskCrop
from htc.ops.run_lengths import rle_of_crops
from stress_tests.harness import Case, Stress
from stress_tests.samples import generator_of, random_mask


def prepare(_shared: Path) -> Case:
    """Return the case."""
    return case


def case(_index: int, numbers: random.Random, _folder: Path) -> str | None:
    """Compare encoding, counts, decoding, box and area of one mask."""
    generator = generator_of(numbers)
    height, width = (int(size) for size in generator.integers(1, 120, 2))
    mask = random_mask(generator, height, width)
    theirs = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))
    text = theirs["counts"]
    whole = MaskCrop(0, 0, mask)
    cut = tight_crop(mask)
    for name, crop in (("whole", whole), ("cropped", cut)):
        ours = rle_of_crops([crop], (height, width))[0]
        if ours != {"size": [height, width], "counts": text.decode("ascii")}:
            return f"the {name} mask {height}x{width} is encoded as {ours}, pycocotools has {theirs}"
    counts = read_counts(text)
    flat = mask.T.ravel()
    runs = np.flatnonzero(np.diff(flat.astype(np.int8))) + 1
    expected = np.diff(np.concatenate(([0], runs, [flat.size])))
    expected = np.concatenate(([0], expected)) if flat[0] else expected
    if not np.array_equal(counts, expected):
        return f"the counts of {text!r} are {counts.tolist()}, right are {expected.tolist()}"
    for segmentation in (RunLengths(text), RunLengths(counts)):
        if not np.array_equal(counts_of(segmentation, height, width), expected):
            return f"counts_of differs for {text!r}"
        x, y, bitmap = decode_mask(segmentation, height, width)
        dense = np.zeros((height, width), np.uint8)
        dense[y : y + bitmap.shape[0], x : x + bitmap.shape[1]] = bitmap
        if not np.array_equal(dense, coco_masks.decode(theirs)):
            return f"the decoded mask of {text!r}, {height}x{width}, differs from that of pycocotools"
        if mask.any() and [x, y, *bitmap.shape[::-1]] != coco_masks.toBbox(theirs).tolist():
            return f"the box {[x, y, *bitmap.shape[::-1]]} of {text!r} differs from {coco_masks.toBbox(theirs)}"
        if int(bitmap.sum()) != int(coco_masks.area(theirs)):
            return f"the area of {text!r} differs"
        again = tight(decode_mask(segmentation, height, width))
        if again[:2] != (x, y) or not np.array_equal(again.bitmap, bitmap):
            return f"the decoded crop of {text!r} is not tight"
    return None


def tight_crop(mask: np.ndarray) -> MaskCrop:
    """Return the mask cropped to its box."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return MaskCrop(0, 0, np.zeros((0, 0), bool))
    y, x = int(rows[0]), int(columns[0])
    return MaskCrop(x, y, mask[y : rows[-1] + 1, x : columns[-1] + 1])


STRESS = Stress("rle", "random masks as run lengths, equal to pycocotools' to the bit", 10_000, prepare)

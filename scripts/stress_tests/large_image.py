"""Predictions of 1000 instances on images of up to 10,000 x 10,000 pixels: memory above the image below 2 GB."""

import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import htc
from htc.checkpoint.native import save_pretrained
from htc.inference.outputs import PredictionWriter, results_file
from htc.inference.sources import ImageFile
from stress_tests.harness import Case, Stress, peak_memory, report, reset_peak
from stress_tests.samples import random_state, tiny_config

INSTANCES = 1000
SIDE = 1000
LIMIT_MIB = 2000
MAX_PIXELS = 400_000_000


def prepare(shared: Path) -> Case:
    """Make a model that has 1000 detections on any image; the case predicts and writes everything."""
    config = tiny_config(max_detections=INSTANCES, score_threshold=0.0, nms_iou=1.0)
    config = config.replace(rpn={"candidates_per_level": 2000, "proposals": 2000, "nms_iou": 1.0})
    config = config.replace(input={"short_edge": 256, "long_edge": 256})
    model = save_pretrained(random_state(config), config, shared / "model")

    def case(index: int, _numbers: random.Random, folder: Path) -> str | None:
        torch.set_num_threads(1)
        side = SIDE * (index % 10 + 1)
        path = folder / "large.png"
        tile = np.random.default_rng(index).integers(0, 255, (500, 500, 3), dtype=np.uint8)
        image = np.tile(tile, (side // 500 + 1, side // 500 + 1, 1))[:side, :side]
        Image.fromarray(image).save(path, compress_level=1)
        del image
        predictor = htc.load(model, device="cpu")
        before = reset_peak()
        detections = predictor.predict(path, score_threshold=0.0, max_pixels=MAX_PIXELS)
        if len(detections) != INSTANCES:
            return f"{len(detections)} detections, not {INSTANCES}"
        with results_file(folder / "results.json") as results:
            writer = PredictionWriter(results=results, drawings=folder, labelme=folder, max_pixels=MAX_PIXELS)
            writer.write(ImageFile(path, "out/large.png"), 1, detections)
        pixels = 3 * side**2 / 2**20
        above = peak_memory() - before - pixels
        report("largest MiB above the image", round(above))
        return None if above < LIMIT_MIB else f"{above:.0f} MiB above the {pixels:.0f} MiB of the image"

    return case


STRESS = Stress(
    "large-image",
    f"{INSTANCES} instances on squares of 1000 to 10,000 pixels a side, with all output files: below {LIMIT_MIB} MiB "
    f"above the image",
    10,
    prepare,
    seconds=1800,
    mebibytes=None,
    workers=1,
)

"""Predict with a file of `htc export` without PyTorch and without this library: copy this file into your program.

It needs NumPy, Pillow, OpenCV (opencv-python-headless) and the runtime of the file: onnxruntime for .onnx, openvino for
.xml. The results are those of `htc.load(file).predict(image)`.

Example: python read_exported.py model.onnx street.jpg --out street.npz
"""

import argparse
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageOps

OUTPUTS = ("boxes", "scores", "labels", "valid", "masks")
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Detections:
    """The instances in one image, best first."""

    boxes: np.ndarray
    """(N, 4) float32, xyxy in pixels of the image."""
    scores: np.ndarray
    """(N,) float32, 0..1."""
    labels: np.ndarray
    """(N,) int64, indices of the classes."""
    class_names: tuple[str, ...]
    category_ids: np.ndarray
    """(N,) int64, ids of the classes in the dataset."""
    probabilities: np.ndarray
    """(N, S, S) float32: probability of the instance on a grid over its box."""
    size: tuple[int, int]
    """(height, width) of the image."""
    mask_threshold: float

    def __len__(self) -> int:
        return len(self.scores)

    def bitmaps(self) -> np.ndarray:
        """(N, height, width) bool: where the probability, interpolated at the pixel's center, reaches the threshold."""
        masks = np.zeros((len(self), *self.size), bool)
        for mask, grid, (left, top, right, bottom) in zip(masks, self.probabilities, self.boxes, strict=True):
            if right <= left or bottom <= top:
                continue
            across = bilinear_weights(self.size[1], left, right, grid.shape[1])
            down = bilinear_weights(self.size[0], top, bottom, grid.shape[0])
            mask[:] = down @ grid @ across.T >= self.mask_threshold
        return masks


def bilinear_weights(pixels: int, low: float, high: float, cells: int) -> np.ndarray:
    """Weight of each cell of a grid over [low, high) at the center of each pixel; 0 outside of the grid."""
    position = (np.arange(pixels, dtype=np.float32) + 0.5 - low) / (high - low) * cells - 0.5
    return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(cells, dtype=np.float32))).astype(np.float32)


class ExportedModel:
    """A file of `htc export` in its runtime."""

    def __init__(self, path: str | Path, threads: int = 0) -> None:
        """Open the file; `threads` 0: as many as the runtime chooses."""
        opened = _open_openvino if Path(path).suffix == ".xml" else _open_onnx
        self._run, facts = opened(Path(path), threads)
        self.classes: tuple[str, ...] = tuple(json.loads(facts["classes"]))
        self.category_ids = np.array(json.loads(facts["category_ids"]), np.int64)
        self.mask_threshold = float(facts["mask_threshold"])
        self.input: dict[str, Any] = json.loads(facts["input"])
        self.takes_image = json.loads(facts["raw_images"])
        """Whether the file resizes and normalizes the image itself."""
        self.input_size = json.loads(facts["size"])
        """(height, width) that the network input is padded to, or None."""

    def predict(
        self, image: str | Path | np.ndarray, score_threshold: float = 0.5, classes: Collection[str] | None = None
    ) -> Detections:
        """Predict the instances in an image: a path, or an (H, W, 3) uint8 RGB array."""
        pixels = image if isinstance(image, np.ndarray) else read(Path(image))
        wanted = [classes is None or name in classes for name in self.classes]
        thresholds = np.where(wanted, max(score_threshold, 1e-30), 2).astype(np.float32)
        original = (pixels.shape[0], pixels.shape[1])
        if self.takes_image:
            found, size = self._run({"image": np.ascontiguousarray(pixels), "thresholds": thresholds}), original
        else:
            images, size = self.prepare(pixels)
            found = self._run({"images": images, "sizes": np.array([size]), "thresholds": thresholds})
        boxes, scores, labels, valid, masks = (found[name][0] for name in OUTPUTS)
        scale = np.array([original[1] / size[1], original[0] / size[0]] * 2)
        limit = np.array([original[1], original[0]] * 2)
        boxes = np.clip(boxes[valid].astype(np.float64) * scale, 0, limit).astype(np.float32)
        labels = labels[valid]
        names = tuple(self.classes[label] for label in labels)
        return Detections(
            boxes, scores[valid], labels, names, self.category_ids[labels], masks[valid], original, self.mask_threshold
        )

    def prepare(self, pixels: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
        """Resize, normalize and pad an image. -> (1, 3, H, W) float32, (height, width) without padding"""
        settings = self.input
        height, width = pixels.shape[:2]
        scale = min(settings["long_edge"] / max(height, width), settings["short_edge"] / min(height, width))
        if settings["max_scale"] is not None:
            scale = min(scale, settings["max_scale"])
        size = (max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1))
        if size != (height, width):
            pixels = cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_LINEAR)
        mean, std = (np.array(settings[name], np.float32) for name in ("mean", "std"))
        values = (pixels.astype(np.float32) - mean) / std
        divisor = settings["divisor"]
        rows, columns = self.input_size or (-(-side // divisor) * divisor for side in size)
        padding = ((0, rows - size[0]), (0, columns - size[1]), (0, 0))
        padded = np.pad(values, padding, "edge" if settings["padding"] == "edge" else "constant")
        return np.ascontiguousarray(padded.transpose(2, 0, 1)[None]), size


def read(path: Path) -> np.ndarray:
    """Read an image file as (H, W, 3) uint8 RGB, upright."""
    return np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))


def _open_onnx(path: Path, threads: int) -> tuple[Callable[[Arrays], Arrays], dict[str, str]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=onnxruntime.get_available_providers())

    def run(inputs: Arrays) -> Arrays:
        return dict(zip(OUTPUTS, session.run(list(OUTPUTS), inputs), strict=True))

    return run, session.get_modelmeta().custom_metadata_map


def _open_openvino(path: Path, threads: int) -> tuple[Callable[[Arrays], Arrays], dict[str, str]]:
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    # The default precision of many processors, bfloat16, moves boxes by pixels.
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads})

    def run(inputs: Arrays) -> Arrays:
        found = compiled(inputs)
        return {name: found[name] for name in OUTPUTS}

    return run, {name: value.value for name, value in model.rt_info["htc_facts"].items()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("--score-threshold", type=float, default=0.5)
    parser.add_argument("--out", type=Path, help="write boxes, scores, labels and masks to this .npz file")
    options = parser.parse_args(arguments)

    detections = ExportedModel(options.model).predict(options.image, options.score_threshold)
    for name, score, box in zip(detections.class_names, detections.scores, detections.boxes, strict=True):
        print(f"{name} {score:.2f} at {', '.join(f'{side:.1f}' for side in box)}")
    if options.out is not None:
        np.savez(
            options.out,
            boxes=detections.boxes,
            scores=detections.scores,
            labels=detections.labels,
            masks=detections.bitmaps(),
        )


if __name__ == "__main__":
    main()

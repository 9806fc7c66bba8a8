"""Semantic map of an image, stored as logits until it is requested."""

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from htc.model.semantic import SEMANTIC_STRIDE
from htc.ops.masks import WORK_ELEMENTS


class SemanticMap:
    """The class of every pixel of an image, stored as the semantic branch's logits (C, h, w) until it is requested.

    Logit (i, j) is the prediction for pixel (8 i, 8 j) of the network input, as in training; `input_size` is the
    image's (height, width) there, `size` that of the original image.
    """

    def __init__(
        self, logits: Float32[np.ndarray, "C h w"], input_size: tuple[int, int], size: tuple[int, int]
    ) -> None:
        self.logits = logits
        self.input_size = input_size
        self.size = size

    def labels(self) -> UInt8[np.ndarray, "H W"]:
        """Most likely class of each pixel of the original image, after bilinear interpolation of the logits."""
        top, bottom, down = self._neighbors(0)
        left, right, along = self._neighbors(1)
        labels = np.empty(self.size, np.uint8)
        step = max(1, WORK_ELEMENTS // (len(self.logits) * self.size[1]))
        for start in range(0, self.size[0], step):
            strip = slice(start, start + step)
            rows = (
                self.logits[:, top[strip]]
                + (self.logits[:, bottom[strip]] - self.logits[:, top[strip]]) * down[strip, None]
            )
            labels[strip] = (rows[:, :, left] + (rows[:, :, right] - rows[:, :, left]) * along).argmax(0)
        return labels

    def _neighbors(
        self, axis: int
    ) -> tuple[Int64[np.ndarray, " L"], Int64[np.ndarray, " L"], Float32[np.ndarray, " L"]]:
        """Logit indices before and after the center of each row (or column) of the original image, and its fractional
        position between them.
        """
        centers = (np.arange(self.size[axis]) + 0.5) * self.input_size[axis] / self.size[axis] - 0.5
        last = self.logits.shape[1 + axis] - 1
        position = np.clip(centers / SEMANTIC_STRIDE, 0, last)
        before = np.floor(position).astype(np.int64)
        return before, np.minimum(before + 1, last), (position - before).astype(np.float32)

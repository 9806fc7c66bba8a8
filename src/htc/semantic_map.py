"""The class of every pixel of an image, kept as the semantic branch's logits until the map is asked for."""

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from htc.model.semantic import SEMANTIC_STRIDE
from htc.ops.masks import WORK_ELEMENTS


class SemanticMap:
    """What every pixel of one image is, kept as the semantic branch's logits (C, h, w) until the map is asked for.

    Logit (i, j) speaks for the pixel (8 i, 8 j) of the network input, as it was trained to; `input_size` is the
    image's own (height, width) there, `size` that of the original.
    """

    def __init__(
        self, logits: Float32[np.ndarray, "C h w"], input_size: tuple[int, int], size: tuple[int, int]
    ) -> None:
        self.logits = logits
        self.input_size = input_size
        self.size = size

    def labels(self) -> UInt8[np.ndarray, "H W"]:
        """The likeliest class of each pixel of the original image: logits between two places are mixed by
        distance.
        """
        top, bottom, down = self._places(0)
        left, right, along = self._places(1)
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

    def _places(self, axis: int) -> tuple[Int64[np.ndarray, " L"], Int64[np.ndarray, " L"], Float32[np.ndarray, " L"]]:
        """For each row (or column) of the original, the logits before and after its center, and how far it lies
        between them.
        """
        centers = (np.arange(self.size[axis]) + 0.5) * self.input_size[axis] / self.size[axis] - 0.5
        last = self.logits.shape[1 + axis] - 1
        place = np.clip(centers / SEMANTIC_STRIDE, 0, last)
        before = np.floor(place).astype(np.int64)
        return before, np.minimum(before + 1, last), (place - before).astype(np.float32)

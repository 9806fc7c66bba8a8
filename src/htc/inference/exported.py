"""Exported files as predictors.

A `RuntimeDetector` takes the place of the network in a `Predictor`, so that images, options and results are the same,
while no network is built and no weights are read by torch.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Never, Self, final

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from htc.checkpoint.exported import Description
from htc.config import Config
from htc.data.transforms import NetworkInput, Preparation
from htc.errors import ConfigError
from htc.inference.predictor import Predictor
from htc.inference.runtimes import INPUTS, OUTPUTS, RAW_INPUTS, Session, open_exported
from htc.model.postprocess import NO_LIMITS, Limits
from htc.settings.layers import Setting, overlay
from htc.types import RawDetections

SMALLEST = np.float32(1e-30)
"""Lowest score of a class for a threshold of 0, since a score of 0 marks an empty slot."""
NOTHING = np.float32(2.0)
"""A threshold that no score reaches: the class is not wanted."""
RESULTS = ("inference.score_threshold", "inference.mask_threshold", "inference.max_detections")
EDGES = ("input.short_edge", "input.long_edge", "input.max_scale")


class RuntimeDetector(nn.Module):
    """An exported network as the detector of a `Predictor`: without parameters, on the device that it was opened for.

    `score_threshold` applies to calls without limits.
    """

    def __init__(self, session: Session, description: Description, score_threshold: float) -> None:
        super().__init__()
        self.session, self.description, self.score_threshold = session, description, score_threshold

    def forward(self, images: Tensor, sizes: Int[Tensor, "B 2"], limits: Limits = NO_LIMITS) -> RawDetections:
        """Detect as `Detector` does.

        images (B, 3, H, W): normalized and padded; uint8 for a file that prepares its images itself, whose detections
        are in pixels of these images.
        """
        thresholds = self.thresholds(limits)
        if self.description.raw_images:
            parts = [self._run_image(image, thresholds) for image in images]
        else:
            parts = self._run_batches(self._padded(images), sizes, thresholds)
        found = {name: torch.from_numpy(np.concatenate([part[name] for part in parts])) for name in OUTPUTS}
        if limits.max_detections is not None:
            found = {name: value[:, : limits.max_detections] for name, value in found.items()}
        return RawDetections(**found)

    def _run_image(self, image: Tensor, thresholds: np.ndarray) -> dict[str, np.ndarray]:
        pixels = np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())
        return self.session.run(dict(zip(RAW_INPUTS, (pixels, thresholds), strict=True)))

    def _run_batches(self, images: Tensor, sizes: Tensor, thresholds: np.ndarray) -> list[dict[str, np.ndarray]]:
        """Run batches of the file's number of images; missing ones are copies of the last one."""
        parts = []
        most = self.description.batch or len(images)
        for pixels, extents in zip(images.cpu().split(most), sizes.cpu().split(most), strict=True):
            missing = most - len(pixels)
            values = [
                np.ascontiguousarray(np.concatenate([given.numpy(), *[given[-1:].numpy()] * missing]))
                for given in (pixels, extents)
            ]
            found = self.session.run(dict(zip(INPUTS, (*values, thresholds), strict=True)))
            parts.append({name: value[: len(pixels)] for name, value in found.items()})
        return parts

    def _padded(self, images: Tensor) -> Tensor:
        """Pad the images to the size of the file, if it has one, with the mean color or the last row and column."""
        if self.description.size is None:
            return images
        bottom, right = (side - given for side, given in zip(self.description.size, images.shape[2:], strict=True))
        if min(bottom, right) < 0:
            height, width = self.description.size
            raise ConfigError(
                f"an image of {images.shape[2]} x {images.shape[3]} pixels (network input, padded) does not fit the "
                f"file's {height} x {width}: set a smaller short_edge or long_edge, or export with a larger size"
            )
        edge = self.description.config.input.padding == "edge"
        return nn.functional.pad(images, (0, right, 0, bottom), "replicate" if edge else "constant")

    def thresholds(self, limits: Limits = NO_LIMITS) -> Float[np.ndarray, " K"]:
        """The lowest score of each class that has the effect of the limits."""
        if limits.score_threshold is None:  # the configured threshold itself is too low
            lowest = np.nextafter(np.float32(self.score_threshold), np.float32(1))
        else:
            lowest = np.float32(limits.score_threshold)
        classes = self.description.config.num_classes
        wanted = np.zeros(classes, bool)
        wanted[list(range(classes) if limits.labels is None else limits.labels)] = True
        return np.where(wanted, max(lowest, SMALLEST), NOTHING).astype(np.float32)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Refuse another device."""
        if not args and not kwargs:
            return self
        raise ConfigError("an exported file runs on the device that it was opened for: htc.load(file, device=...)")


@final
class WholeImages(Preparation[NetworkInput]):
    """For a file that prepares its images itself: the image is not changed."""

    def size(self, original: tuple[int, int]) -> tuple[int, int]:
        """See `Preparation`."""
        return original

    def padded_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """See `Preparation`."""
        return size

    def image(self, pixels: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
        """See `Preparation`."""
        return pixels

    def batch(self, images: list[UInt8[np.ndarray, "_ _ 3"]]) -> NetworkInput:
        """See `Preparation`; the images have one size."""
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
        return NetworkInput(pixels, torch.tensor([image.shape[:2] for image in images]))


def exported_predictor(session: Session, description: Description, config: Config, name: str) -> Predictor:
    """Build the predictor of an opened file, whose `name` is for messages."""

    def no_weights() -> Never:
        raise ConfigError(f"{name} is an exported file: its weights cannot be saved; save the model it was made from")

    detector = RuntimeDetector(session, description, config.inference.score_threshold)
    return Predictor(detector, config, no_weights, WholeImages() if description.raw_images else None)


def load_exported(path: Path, device: torch.device, settings: Sequence[Setting]) -> Predictor:
    """Open an exported file in its runtime; no network is built. Raises the errors of `open_exported`, and
    `ConfigError` for settings that are fixed in it.
    """
    session, description = open_exported(path, device)
    config = overlay(description.config, settings)
    check_changes(path, description, config)
    return exported_predictor(session, description, config, str(path))


def check_changes(path: Path, description: Description, requested: Config) -> None:
    """Raise `ConfigError` if a configuration differs from that of an exported file in a field that is fixed in it."""
    own, wanted = (_dotted(config.model_dump()) for config in (description.config, requested))
    changeable = RESULTS if description.raw_images else (*EDGES, *RESULTS)
    fixed = [name for name in wanted if wanted[name] != own.get(name) and name not in changeable]
    if fixed:
        raise ConfigError(
            f"{path}: {', '.join(fixed)} {'is' if len(fixed) == 1 else 'are'} fixed in an exported file (only "
            f"{', '.join(changeable)} can be changed); export the model again with this setting"
        )
    most = "inference.max_detections"
    if wanted[most] > own[most]:
        raise ConfigError(
            f"{path}: {most} is {wanted[most]}, but the file gives at most {own[most]}; export the model again with a "
            f"larger one"
        )


def _dotted(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """All values of a nested mapping by their dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _dotted(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat

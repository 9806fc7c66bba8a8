"""Exported files in their runtimes: ONNX Runtime and OpenVINO behind the interface of a detector.

The only module that opens sessions. A `RuntimeDetector` takes the place of the network in a `Predictor`, so that
images, options and results are the same, while no network is built and no weights are read by torch.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor, nn

from htc.checkpoint.exported import Description, Kind, exported_kind, read_description
from htc.config import Config
from htc.errors import CheckpointError, ConfigError
from htc.extras import require
from htc.inference.device import choose_device
from htc.model.postprocess import NO_LIMITS, Limits
from htc.types import RawDetections

Arrays = Mapping[str, np.ndarray]
INPUTS = ("images", "sizes", "thresholds")
"""Inputs of an exported network: images as in `NetworkInput`, their sizes, and the lowest score of each class."""
OUTPUTS = ("boxes", "scores", "labels", "valid", "masks")
"""Outputs: the fields of `RawDetections`."""
SMALLEST = np.float32(1e-30)
"""Lowest score of a class for a threshold of 0, since a score of 0 marks an empty slot."""
NOTHING = np.float32(2.0)
"""A threshold that no score reaches: the class is not wanted."""


class Session(Protocol):
    """An opened file."""

    name: str
    """Runtime and version."""

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Run the graph once. -> outputs by name"""
        ...


class OnnxSession:
    """A file in ONNX Runtime, with as many threads as torch has; on CUDA if the device is one."""

    def __init__(self, path: Path, device: torch.device) -> None:
        require("export", "an ONNX file", ("onnxruntime",))
        import onnxruntime

        providers: list[Any] = ["CPUExecutionProvider"]
        if device.type == "cuda":
            if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
                raise ConfigError(
                    "the installed onnxruntime has no CUDA: install onnxruntime-gpu in its place (pip uninstall "
                    "onnxruntime; pip install onnxruntime-gpu), or use device cpu"
                )
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # its warnings are about nodes that it moves between devices
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # its errors have no common class
            raise CheckpointError(f"{path}: ONNX Runtime cannot open it: {_first_line(error)}") from error
        self.name = f"onnxruntime {onnxruntime.__version__}"
        self._inputs = {one.name for one in self._session.get_inputs()}
        self._outputs = [one.name for one in self._session.get_outputs()]

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """See `Session`."""
        given = {name: value for name, value in inputs.items() if name in self._inputs}
        found: list[Any] = list(self._session.run(None, given))
        return dict(zip(self._outputs, found, strict=True))


class OpenVinoSession:
    """A file in OpenVINO, in float32: its default precision on CPUs with bfloat16 moves boxes by pixels."""

    def __init__(self, path: Path, device: torch.device) -> None:
        require("export", "an OpenVINO file", ("openvino",))
        import openvino

        if device.type != "cpu":
            raise ConfigError(f"an OpenVINO file runs on the CPU, not on {device}: use device cpu, or export to ONNX")
        options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        try:
            self._model = openvino.Core().compile_model(str(path), "CPU", options)
        except RuntimeError as error:
            raise CheckpointError(f"{path}: OpenVINO cannot open it: {_first_line(error)}") from error
        self.name = f"openvino {openvino.__version__.split('-')[0]}"
        self._inputs = {one.any_name for one in self._model.inputs}
        self._outputs = [one.any_name for one in self._model.outputs]

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """See `Session`."""
        # an array that is not contiguous or of another type would be copied with a warning
        given = {name: np.ascontiguousarray(value) for name, value in inputs.items() if name in self._inputs}
        found = self._model(given)
        return {name: found[index] for index, name in enumerate(self._outputs)}


SESSIONS: Mapping[Kind, type[OnnxSession] | type[OpenVinoSession]] = {"onnx": OnnxSession, "openvino": OpenVinoSession}


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


class RuntimeDetector(nn.Module):
    """An exported network as the detector of a `Predictor`: without parameters, on the device that it was opened for.

    `description` is that of the file; `score_threshold` applies to calls without limits.
    """

    def __init__(self, session: Session, description: Description, score_threshold: float) -> None:
        super().__init__()
        self.session, self.description, self.score_threshold = session, description, score_threshold

    def forward(self, images: Tensor, sizes: Tensor, limits: Limits = NO_LIMITS) -> RawDetections:
        """Detect as `Detector` does: images (B, 3, H, W), normalized and padded; sizes (B, 2)."""
        thresholds = self.thresholds(limits)
        pixels, extents = self._padded(images).cpu().numpy(), sizes.cpu().numpy().astype(np.int64)
        count, most = len(pixels), self.description.batch or len(pixels)
        parts = [
            self._run(pixels[start : start + most], extents[start : start + most], thresholds, most)
            for start in range(0, count, most)
        ]
        found = {name: torch.from_numpy(np.concatenate([part[name] for part in parts])) for name in OUTPUTS}
        if limits.max_detections is not None:
            found = {name: value[:, : limits.max_detections] for name, value in found.items()}
        return RawDetections(**found)

    def _run(self, images: np.ndarray, sizes: np.ndarray, thresholds: np.ndarray, batch: int) -> dict[str, np.ndarray]:
        """Run a batch of the file's size; missing images are copies of the last one."""
        missing = batch - len(images)
        if missing:
            images, sizes = (np.concatenate([values, *[values[-1:]] * missing]) for values in (images, sizes))
        values = (np.ascontiguousarray(images), sizes, thresholds)
        inputs: dict[str, np.ndarray] = dict(zip(INPUTS, values, strict=True))
        return {name: value[: batch - missing] for name, value in self.session.run(inputs).items()}

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

    def thresholds(self, limits: Limits = NO_LIMITS) -> np.ndarray:
        """The lowest score of each class (K,) that has the effect of the limits."""
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


def open_exported(path: Path, device: torch.device | str = "cpu") -> tuple[Session, Description]:
    """Open an exported file in its runtime. -> the session, and the file's description

    Raises `CheckpointError` for a file of another program or a damaged one, `ConfigError` for a device that its runtime
    cannot use, `InstallationError` without the runtime.
    """
    kind = exported_kind(path)
    if kind is None:
        raise CheckpointError(f"{path}: neither an ONNX nor an OpenVINO file; `htc export` writes them")
    description = read_description(path, kind)
    return SESSIONS[kind](path, choose_device(device)), description


CHANGEABLE = (
    *("input.short_edge", "input.long_edge", "input.max_scale"),
    *("inference.score_threshold", "inference.mask_threshold", "inference.max_detections"),
)
"""Fields of the configuration that may differ from those of an exported file."""


def check_changes(path: Path, file: Config, requested: Config) -> None:
    """Raise `ConfigError` if a configuration differs from that of an exported file in a field that is fixed in it."""
    own, wanted = (dotted(config.model_dump()) for config in (file, requested))
    fixed = [name for name in wanted if wanted[name] != own.get(name) and name not in CHANGEABLE]
    if fixed:
        raise ConfigError(
            f"{path}: {', '.join(fixed)} {'is' if len(fixed) == 1 else 'are'} fixed in an exported file (only "
            f"{', '.join(CHANGEABLE)} can be changed); export the model again with this setting"
        )
    most = "inference.max_detections"
    if wanted[most] > own[most]:
        raise ConfigError(
            f"{path}: {most} is {wanted[most]}, but the file gives at most {own[most]}; export the model again with a "
            f"larger one"
        )


def dotted(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """All values of a nested mapping by their dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= dotted(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat

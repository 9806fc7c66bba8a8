"""Sessions of exported files in their runtimes, ONNX Runtime and OpenVINO: the only module that opens them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from htc.checkpoint.exported import Description, Kind, exported_kind, read_description
from htc.errors import CheckpointError, ConfigError
from htc.extras import require
from htc.inference.device import choose_device

Arrays = Mapping[str, np.ndarray]
INPUTS = ("images", "sizes", "thresholds")
"""Inputs of an exported network: images as in `NetworkInput`, their sizes, and the lowest score of each class."""
RAW_INPUTS = ("image", "thresholds")
"""Inputs of a file that prepares its image itself: (H, W, 3) uint8 RGB, and the lowest score of each class."""
OUTPUTS = ("boxes", "scores", "labels", "valid", "masks")
"""Outputs: the fields of `RawDetections`."""


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

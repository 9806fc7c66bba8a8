"""`htc.export`: write a model to a file of another runtime, with a certificate of what the file computes."""

import hashlib
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import torch

from htc.checkpoint.exported import Description, readable_metadata
from htc.config import Config
from htc.errors import ConfigError, ExportError
from htc.exporting.certificate import Certificate
from htc.exporting.comparison import certify, comparison_images, differing_part, failure
from htc.exporting.graph import InputShape, output_names, trace
from htc.exporting.onnx_file import translate, write_onnx
from htc.exporting.openvino_file import without_deform_conv2d, write_openvino
from htc.exporting.raw_images import with_raw_images
from htc.exporting.target import STRIDE, certificate_path, check_target, finished_together
from htc.files import optional_path, write_json
from htc.inference.load import load_with_settings
from htc.inference.predictor import Predictor
from htc.inference.runtimes import OUTPUTS
from htc.model.detector import Detector
from htc.progress import NamedProgress, ProgressOption, reporting
from htc.settings.layers import Setting
from htc.settings.python import Overrides, check_overrides, python_settings

if TYPE_CHECKING:
    from torch.onnx import ONNXProgram

STEPS = 5


def export(
    model: str | Path | Predictor,
    file: str | Path,
    *,
    weights: str | Path | None = None,
    batch: int | None = None,
    size: Sequence[int] | None = None,
    raw_images: bool = False,
    images: str | Path | None = None,
    annotations: str | Path | None = None,
    config: Config | str | Path | None = None,
    progress: ProgressOption = True,
    **overrides: Unpack[Overrides],
) -> Certificate:
    """Write a model to a file of another runtime, run the file there, and compare it with the model.

    The file gets its name only if it computes what the model does; `FILE.json` beside it is the certificate. The file
    predicts as any model: `htc.load("model.onnx")`.

    Args:
        model: a predictor of `htc.load` in fp32, or what `htc.load` takes.
        file: the new file; its suffix is the format: `.onnx`, or `.xml` for OpenVINO.
        weights: a weights file, or a preset with released weights, for a preset as model.
        batch: number of images of a call; `None`: any number.
        size: (height, width) of the network input, multiples of 32, to which images are padded; `None`: any.
        raw_images: make resizing, normalization and padding part of the file, which then takes one image as it is.
        images: a folder of images for the comparison. `None`: bundled ones.
        annotations: COCO annotations of the images: compares AP too.
        config: settings of a model given by name or path: a YAML or JSON file, or a whole configuration.
        progress: `True` shows a bar, `False` nothing; a function is called with (done, total, step).
        **overrides: sections of the configuration of a model given by name or path.

    Raises:
        ExportError: the model cannot be exported, or the file computes something else; no file is left.
        ConfigError: an option cannot be used.
        CheckpointError: the model cannot be loaded.
        DataError: the images of the comparison cannot be used.
        OutputError: the file exists already or cannot be written.
        InstallationError: the extra `export` is not installed.
        TypeError: an option does not exist; the message names the nearest.

    Example:
        >>> certificate = htc.export("runs/train/my_data", "model.onnx")
        >>> certificate.matched, certificate.expected, certificate.boxes
        (412, 412, 0.00031)
        >>> htc.load("model.onnx").predict("street.jpg")
    """
    check_overrides(export, overrides)
    named = not isinstance(model, Predictor)
    if not named and (weights is not None or config is not None or overrides):
        raise ConfigError("weights, config and sections are for a model given by name; this one is already loaded")
    target = Path(file)
    check_target(target, batch, size, raw_images=raw_images)
    settings = python_settings(config, overrides, "htc.export") if named else []
    shape = InputShape(batch, None if size is None else (size[0], size[1]))
    with reporting(progress, "export") as report:
        return run_export(
            model,
            target,
            shape,
            settings,
            report,
            weights=weights,
            raw_images=raw_images,
            images=images,
            annotations=annotations,
        )


def run_export(
    model: str | Path | Predictor,
    file: Path,
    shape: InputShape,
    settings: Sequence[Setting],
    report: NamedProgress,
    *,
    weights: str | Path | None = None,
    raw_images: bool = False,
    images: str | Path | None = None,
    annotations: str | Path | None = None,
) -> Certificate:
    """Export as `htc.export` does; `check_target` has passed."""
    paths = comparison_images(optional_path(images), optional_path(annotations))
    predictor = (
        model
        if isinstance(model, Predictor)
        else load_with_settings(
            model, weights, torch.device("cpu"), [*settings, Setting(("precision",), "fp32", "export")]
        )
    )
    detector = exportable(predictor)
    description = Description(
        predictor.config,
        version("hybrid-task-cascade"),
        hash_weights(detector),
        shape.batch,
        shape.size,
        raw_images,
        "fp32",
    )
    report(0, STEPS, "trace")
    traced = trace(detector, predictor.config, shape)
    if file.suffix == ".xml":
        traced = without_deform_conv2d(traced)
    report(1, STEPS, "translate")
    translated = translate(traced, output_names(predictor.config))
    with finished_together(file) as folder:
        report(2, STEPS, "write")
        written = folder / file.name
        _write(translated, written, description)
        report(3, STEPS, "compare")
        certificate = certify(predictor, written, paths, optional_path(annotations), optional_path(images))
        if not certificate.passed:
            with_parts = folder / f"parts-{file.name}"
            _write(translated, with_parts, description, parts=True)
            raise ExportError(failure(file, certificate, differing_part(predictor, detector, with_parts, paths[0])))
        write_json(certificate_path(written), certificate.to_dict())
    report(STEPS, STEPS, "")
    return certificate


def _write(translated: "ONNXProgram", path: Path, description: Description, *, parts: bool = False) -> None:
    """Write a translated program in the format of the suffix; with `parts`, also the outputs of the parts."""
    if path.suffix == ".xml":
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            onnx_file = Path(folder) / "model.onnx"
            _write(translated, onnx_file, description, parts=parts)
            write_openvino(onnx_file, path, readable_metadata(description))
        return
    write_onnx(translated, path, readable_metadata(description), parts=parts)
    if description.raw_images:
        names = output_names(description.config) if parts else OUTPUTS
        with_raw_images(path, description.config.input, description.size, names)


def exportable(predictor: Predictor) -> Detector:
    """Return the detector of a predictor that can be exported; raises `ConfigError` for any other."""
    detector = predictor.detector
    if not isinstance(detector, Detector):
        raise ConfigError(f"a {type(detector).__name__} cannot be exported: use a model of htc.load")
    if predictor.config.precision != "fp32" or predictor.device.type != "cpu":
        raise ConfigError(
            f"this model is loaded in {predictor.config.precision} on {predictor.device}: for an export, load it with "
            f"device='cpu' and precision='fp32'"
        )
    if predictor.config.input.divisor % STRIDE:
        raise ConfigError(
            f"input.divisor is {predictor.config.input.divisor}, but the network input of an exported file must be a "
            f"multiple of {STRIDE}: set input.divisor to {STRIDE}"
        )
    return detector


def hash_weights(detector: Detector) -> str:
    """SHA-256 of all parameters and buffers as they are exported, in the order of their names."""
    digest = hashlib.sha256()
    for name, value in sorted(detector.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()

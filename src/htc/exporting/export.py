"""`htc.export`: write a model to a file of another runtime, with a certificate of what the file computes."""

import hashlib
import tempfile
from collections.abc import Sequence
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import torch

from htc import process_memory
from htc.checkpoint.exported import Description, readable_metadata
from htc.config import Config
from htc.data.coco import read_coco
from htc.data.image_headers import image_size
from htc.data.images import read_image
from htc.errors import ConfigError, DataError, ExportError
from htc.evaluation.evaluation import images_folder
from htc.exporting.certificate import (
    EXACT,
    Certificate,
    Tolerance,
    average_precisions,
    compare_on,
    first_differing,
    latency,
)
from htc.exporting.graph import InputShape, eager_parts, output_names, part_names, trace
from htc.exporting.onnx_file import translate, write_onnx
from htc.exporting.openvino_file import without_deform_conv2d, write_openvino
from htc.exporting.raw_images import with_raw_images
from htc.exporting.target import STRIDE, certificate_path, check_target, finished_together
from htc.files import optional_path, write_json
from htc.inference.exported import RuntimeDetector, exported_predictor
from htc.inference.load import load_with_settings
from htc.inference.predictor import Predictor
from htc.inference.runtimes import INPUTS, OUTPUTS, open_exported
from htc.inference.sources import expand
from htc.model.detector import Detector
from htc.progress import NamedProgress, ProgressOption, reporting
from htc.settings.layers import Setting
from htc.settings.python import Overrides, check_overrides, python_settings

if TYPE_CHECKING:
    from torch.onnx import ONNXProgram

IMAGES = 4
"""Bundled images of a certificate: one of each of the smallest sizes."""
MOST_IMAGES = 8
"""Images of a certificate that are taken from a folder."""
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
            raise ExportError(failure(file, certificate, differing_part(predictor, with_parts, paths[0])))
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


def comparison_images(folder: Path | None, annotations: Path | None) -> list[Path]:
    """Return the images of the certificate, of several sizes if there are; raises `DataError` for an empty folder."""
    if annotations is not None:
        folder = folder or images_folder(annotations)
        found = [image.path for image in read_coco(annotations, folder).images]
    elif folder is not None:
        files, failures = expand([folder])
        if not files:
            raise DataError(failures[0].message if failures else f"{folder}: no images")
        found = [Path(one.path) for one in files]
    else:
        bundled = Path(str(resources.files("htc.demo"))) / "nuclei" / "val"
        return _of_several_sizes(sorted(bundled.iterdir()), IMAGES)
    return _of_several_sizes(found, MOST_IMAGES)


def _of_several_sizes(paths: Sequence[Path], most: int) -> list[Path]:
    """At most `most` paths, those of different image sizes first, small images first."""
    sizes = {path: image_size(path) for path in paths}
    firsts = list({size: path for path, size in reversed(sizes.items())}.values())
    firsts.sort(key=lambda path: (sizes[path][0] * sizes[path][1], str(path)))
    return [*firsts, *(path for path in paths if path not in firsts)][:most]


def certify(
    predictor: Predictor,
    file: Path,
    images: Sequence[Path],
    annotations: Path | None = None,
    folder: Path | None = None,
    tolerance: Tolerance = EXACT,
) -> Certificate:
    """Run a file in its runtime and compare it with the model that it was made from."""
    measured = process_memory.is_reported()
    before = process_memory.reset_peak() if measured else 0.0
    session, description = open_exported(file)
    config = predictor.config
    other = exported_predictor(session, description, config, file.name)
    largest = max(images, key=lambda path: image_size(path)[0] * image_size(path)[1])
    compare_on(other, other, [largest])
    file_peak = process_memory.peak() - before if measured else 0.0
    before = process_memory.reset_peak() if measured else 0.0
    compare_on(predictor, predictor, [largest])
    parameters = sum(value.nbytes for value in predictor.detector.state_dict().values()) / (1 << 20)
    model_peak = process_memory.peak() - before + parameters if measured else 0.0
    compared = compare_on(predictor, other, images, tolerance)
    return Certificate(
        file=file.name,
        runtime=session.name,
        precision=description.precision,
        weights_sha256=description.weights_sha256,
        version=description.version,
        preset=config.preset,
        batch=description.batch,
        size=description.size,
        tolerance=tolerance,
        images=tuple(one.differences for one in compared),
        latency_ms=latency(compared),
        threads=torch.get_num_threads(),
        memory_mib={"model": model_peak, "file": file_peak} if measured else None,
        ap=None
        if annotations is None
        else average_precisions(predictor, other, annotations, folder or images_folder(annotations)),
    )


def differing_part(predictor: Predictor, with_parts: Path, image: Path) -> tuple[str, str] | None:
    """The first output of a part in which a file with all outputs differs from the model, with a description."""
    pixels, preparation = read_image(image), predictor.preparation()
    prepared = preparation.batch([preparation.image(pixels)])
    session, description = open_exported(with_parts)
    lowest = RuntimeDetector(session, description, predictor.config.inference.score_threshold).thresholds()
    values: dict[str, torch.Tensor] = dict(
        zip(INPUTS, (prepared.images, prepared.sizes, torch.from_numpy(lowest)), strict=True)
    )
    given = {"image": pixels} if description.raw_images else {}
    found = session.run({**{name: value.contiguous().numpy() for name, value in values.items()}, **given})
    expected = eager_parts(exportable(predictor), predictor.config, values)
    names = part_names(predictor.config)
    return first_differing({name: expected[name].numpy() for name in names}, {name: found[name] for name in names})


def failure(file: Path, certificate: Certificate, part: tuple[str, str] | None) -> str:
    """The message for a file that computes something else."""
    limits = certificate.tolerance
    where = "the parts before the selection of detections agree, so it is select or segment"
    if part is not None:
        name, description = part
        where = f"the first part that differs is {name.split('.')[0]} (output {name}: {description})"
    return "\n  ".join(
        [
            f"{file} was not written: in {certificate.runtime} it does not compute what the model does; {where}",
            *certificate.lines(),
            f"tolerance: scores {limits.scores:g}, boxes {limits.boxes:g} pixels, masks {limits.masks:g}, for "
            f"{100 * (1 - limits.share):g} % of the detections",
        ]
    )

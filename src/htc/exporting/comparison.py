"""Run an exported file in its runtime beside its model: on which images, with what time and memory, and in which part a
file differs first.
"""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import torch

from htc import process_memory
from htc.data.coco import read_coco
from htc.data.image_headers import image_size
from htc.data.images import read_image
from htc.errors import DataError
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
from htc.exporting.graph import eager_parts, part_names
from htc.inference.exported import RuntimeDetector, exported_predictor
from htc.inference.predictor import Predictor
from htc.inference.runtimes import INPUTS, open_exported
from htc.inference.sources import expand
from htc.model.detector import Detector

IMAGES = 4
"""Bundled images of a certificate: one of each of the smallest sizes."""
MOST_IMAGES = 8
"""Images of a certificate that are taken from a folder."""


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


def differing_part(predictor: Predictor, detector: Detector, with_parts: Path, image: Path) -> tuple[str, str] | None:
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
    expected = eager_parts(detector, predictor.config, values)
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

"""`htc predict`: predict on images; write drawings and result files."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Annotated, Any
from urllib.parse import urlsplit

from cyclopts import Parameter

from htc.cli.existing import check_files
from htc.cli.model import (
    check_named_models,
    load_named_models,
    measured_precision,
    print_config_of,
    settings_of,
)
from htc.cli.options import (
    MODEL_OPTIONS,
    Count,
    File,
    Flags,
    Folder,
    JsonTarget,
    ModelOptions,
    Name,
    Natural,
    PagesOption,
    Percentile,
    Switch,
    Threshold,
    Words,
)
from htc.cli.output import STDOUT, check_json_target, print_message, print_or_write_json, progress
from htc.data.image_headers import Pages
from htc.data.images import MAX_PIXELS, is_url
from htc.errors import ConfigError, DataError, OutputError
from htc.files import remove_incomplete
from htc.inference.journal import PART, Journal, check_journal, journal, journal_path
from htc.inference.sources import Failure, ImageFile, expand, image_ids, predict_files, readable
from htc.keywords import check_classes
from htc.run_folders import filling, folder_for, require_writable

DISPLAY_THRESHOLD = 0.5


def predict(
    source: Annotated[list[str] | None, Parameter(negative="")] = None,
    /,
    *,
    model: Annotated[list[str], Parameter(metavar="MODEL", negative="")],
    weights: Name | None = None,
    views: Annotated[str | None, Parameter(metavar="SPEC")] = None,
    annotations: File | None = None,
    score_threshold: Threshold | None = None,
    max_detections: Count | None = None,
    short_edge: Count | None = None,
    long_edge: Count | None = None,
    classes: Words | None = None,
    out: Folder | None = None,
    json: JsonTarget = None,
    resume: Switch = False,
    labelme: Switch = False,
    polygons: Switch = False,
    draw: bool = True,
    batch_size: Count = 1,
    workers: Natural = 0,
    max_pixels: Count | None = None,
    pages: PagesOption | None = None,
    percentile: Percentile | None = None,
    options: ModelOptions = MODEL_OPTIONS,
    flags: Flags = (),
) -> int:
    """Predict the instances in images; write drawings to a folder, and COCO results with --json.

    Parameters
    ----------
    source
        Image files, folders (searched recursively), patterns such as 'photos/**/*.jpg', or http(s) URLs.
    model
        A preset name, a folder that `htc train` or `htc convert` wrote, or a .pth or .safetensors file; repeat the
        flag for an ensemble.
    weights
        A weights file, or the name of a preset with released weights, for --model PRESET. FILE#teacher is one of
        several models in a file.
    views
        Views for test-time augmentation: scales or sizes, then :flip, as in 0.75,1,1.25:flip or 600x900,800x1200:flip;
        paper for the paper's ten.
    annotations
        COCO annotations with the ids of the images, which are matched by file name.
    score_threshold
        Minimum score of the detections, 0 to 1. Default: 0.5; use 0.001 for results to be evaluated.
    max_detections
        Maximum number of detections of an image, by descending score. Default: the model's own.
    short_edge
        Short edge of the network input in pixels; smaller if the long edge would exceed --long-edge. Default: the
        model's own.
    long_edge
        Maximum long edge of the network input in pixels. Default: the model's own.
    classes
        Predict only these class names.
    out
        Folder for the drawings. Default: runs/predict/NAME, NAME being that of the first SOURCE.
    json
        Write COCO results to this JSON file; - is standard output.
    resume
        Continue an interrupted prediction with the same options, --out and --json.
    labelme
        Write a labelme file for each image, beside its drawing.
    polygons
        Write polygons instead of RLE to the COCO results; holes are lost.
    draw
        Draw the detections on the images.
    batch_size
        Images in a forward pass.
    workers
        Threads that read and resize the next images in the background; 0: none.
    max_pixels
        Images with more pixels are refused. Default: 178956970.
    pages
        Pages of a TIFF stack, or frames of a GIF: first, all (each is an image of its own, as in stack.tif#2), or the
        number of a page, from 1. Default: the first, with a warning.
    percentile
        Percentiles (0 to 100) of 16-bit and float images that become 0 and 255, as in 0.1,99.9. Default: the model's
        own range, --input.intensity.
    """
    settings = settings_of(options, flags, max_detections, score_threshold)
    if options.print_config:
        return print_config_of(model[0], weights, [*settings, *measured_precision(options)])
    if not source or not all(source):
        raise DataError(
            "SOURCE is missing: name image files, folders or patterns, as in htc predict photos --model MODEL"
        )
    if short_edge is not None and long_edge is not None and short_edge > long_edge:
        raise ConfigError(f"--short-edge {short_edge} is larger than --long-edge {long_edge}: swap the values")
    if (short_edge or long_edge) and (views is not None or len(model) > 1):
        raise ConfigError(
            "--short-edge and --long-edge are for one view of one model: write sizes in --views, as 600x900, or set "
            "--input.short_edge"
        )
    if not (draw or labelme or json):
        raise ConfigError("--no-draw: nothing would be written; add --json FILE or --labelme")
    known = check_named_models(model, weights, views, settings)
    results = None if json in (None, STDOUT) else Path(json)
    if resume and results is not None and results.exists():
        print_message(f"{results} is complete: there is nothing to resume")
        return 0
    check_json_target(json)
    check_files({"--annotations": annotations})
    folder = _folder(source[0], out, results, resume=resume) if draw or labelme else None
    record_file = None if results is None and folder is None else journal_path(results, folder or Path())
    if record_file is not None:
        check_journal(record_file, resume=resume)
    files, ids, failures = _images(source, annotations, max_pixels, pages)
    if classes is not None and known is not None:
        check_classes(classes, known.classes)
    predictor, _ = load_named_models(model, weights, views, settings, options, probe=True)
    from htc.inference.outputs import PredictionWriter, ResultsList, path_key

    given = {
        "short_edge": short_edge,
        "long_edge": long_edge,
        "max_detections": max_detections,
        "classes": classes,
        "max_pixels": max_pixels,
        "workers": workers,
        "pages": "first" if pages == "first" else None,
        "percentile": percentile,
    }
    kwargs: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    threshold = DISPLAY_THRESHOLD if score_threshold is None else score_threshold
    call = {
        **{name: kwargs.get(name) for name in ("short_edge", "long_edge", "classes", "pages", "percentile")},
        **{".".join(setting.path): str(setting.value) for setting in settings},
        "model": model,
        "weights": weights,
        "views": views,
        "score_threshold": threshold,
        "outputs": [draw, labelme, polygons, json is not None],
    }
    with ExitStack() as stack:
        if folder is not None:
            stack.enter_context(filling(folder))
        record = stack.enter_context(_record(record_file, call, folder))
        bar = stack.enter_context(progress("predict"))
        of_image = ResultsList()
        writer = PredictionWriter(
            results=of_image if json else None,
            polygons=polygons,
            drawings=folder if draw else None,
            labelme=folder if labelme else None,
            max_pixels=max_pixels or MAX_PIXELS,
            files=files,
            written=record.files,
        )
        left = [file for file in files if file.name not in record.finished]
        for file, detections in predict_files(predictor, left, failures, batch_size, threshold, _report, **kwargs):
            paths = writer.write(file, ids[file], detections)
            record.add(file.name, [path_key(path) for path in paths], of_image.results)
            of_image.results.clear()
            bar(len(record.finished), len(files), "")
        if not record.finished:
            raise DataError("no image could be read, so nothing was written; see the messages above")
        _write_results(json, record)
    print_message(_summary(len(record.finished), len(failures), folder, json))
    return 1 if failures else 0


def _summary(done: int, failed: int, folder: Path | None, json: str | None) -> str:
    images = f"{done} of {done + failed} images" if failed else f"{done} image{'s' if done != 1 else ''}"
    outputs = [f"files in {folder}" if folder else "", f"results in {json}" if json not in (None, STDOUT) else ""]
    return ", ".join([f"{images} done", *filter(None, outputs)])


def _name(source: str) -> str:
    """Return the name of a run: that of the image or folder, or of the folder at the start of a pattern."""
    if is_url(source):
        return PurePosixPath(urlsplit(source).path).stem or "images"
    fixed = [part for part in Path(source).absolute().parts if not set(part) & set("*?[")]
    return Path(*fixed).stem or "images"


def _report(failure: Failure) -> None:
    print_message(f"htc: {failure.message}")


def _images(
    sources: Sequence[str], annotations: Path | None, max_pixels: int | None, pages: Pages
) -> tuple[list[ImageFile], dict[ImageFile, int | str], list[Failure]]:
    """Return the images with a readable header, their ids, and the failures, which are also printed. Raises `DataError`
    if no image is readable.
    """
    known = None
    if annotations is not None:
        from htc.evaluation.files import listed_names

        known = listed_names(annotations)
    files, failures = expand(sources)
    usable, unreadable = readable(files, max_pixels or MAX_PIXELS, pages)
    failures += unreadable
    if not usable:
        raise DataError(
            "\nhtc: ".join(failure.message for failure in failures)
            or "no image matches SOURCE; give image files, folders or patterns"
        )
    for failure in failures:
        _report(failure)
    return usable, dict(zip(usable, image_ids(usable, known), strict=True)), failures


def _folder(source: str, out: Path | None, results: Path | None, *, resume: bool) -> Path:
    """Return the folder of the drawings: a new or empty one, or that of an interrupted prediction."""
    if resume and out is None:
        raise ConfigError("--resume needs --out DIR, the folder of the interrupted prediction")
    if not (resume and out is not None and out.is_dir() and any(out.iterdir())):
        return folder_for("predict", _name(source), out)
    if not journal_path(results, out).exists():
        raise OutputError(
            f"--out {out}: is complete, or not the folder of an interrupted prediction: there is nothing to resume"
        )
    require_writable(out, "--out")
    return out


@contextmanager
def _record(path: Path | None, call: Mapping[str, Any], folder: Path | None) -> Iterator[Journal]:
    """Open the record of the prediction; results on standard output alone have a temporary one."""
    with ExitStack() as stack:
        if path is None:
            path = Path(stack.enter_context(TemporaryDirectory()), "record")
        elif path.exists():
            remove_incomplete(path.parent, path.name.removesuffix(PART))
            if folder is not None:
                remove_incomplete(folder, "**/*")
        record = stack.enter_context(journal(path, call))
        try:
            yield record
        except BaseException:
            if record.finished:
                print_message(f"{len(record.finished)} images are finished: repeat the call with --resume to continue")
            raise


def _write_results(target: str | None, record: Journal) -> None:
    """Write the COCO results of all images to a file, or print them."""
    from htc.inference.outputs import results_file

    if target == STDOUT:
        print_or_write_json(target, [result for results in record.results() for result in results])
    elif target is not None:
        with results_file(Path(target)) as file:
            for results in record.results():
                file.add(results)

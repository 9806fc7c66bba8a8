"""`htc evaluate`: COCO numbers of a model, or of any tool's result file."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from htc.cli.model import check_model, check_released, load_predictor, print_config_of, settings_of
from htc.cli.options import Count, File, Flags, Folder, JsonTarget, ModelOptions, Name
from htc.cli.output import STDOUT, check_json_target, progress, say, table, write_json
from htc.compatibility import check_torch
from htc.errors import ConfigError

DEFAULTS = ModelOptions()
KINDS = {"bbox": "boxes", "segm": "masks"}


def evaluate(
    model: Annotated[str | None, Parameter(name="MODEL")] = None,
    /,
    *,
    annotations: File | None = None,
    images: Folder | None = None,
    weights: Name | None = None,
    results: File | None = None,
    save_results: File | None = None,
    max_detections: Count | None = None,
    batch_size: Count = 1,
    json: JsonTarget = None,
    options: ModelOptions = DEFAULTS,
    flags: Flags = (),
) -> int:
    """Measure box and mask average precision on annotated pictures.

    Parameters
    ----------
    model
        A preset name, a native or run folder, or a .pth or .safetensors file.
    annotations
        COCO annotations of the pictures.
    images
        Folder of the pictures. Default: val for annotations/instances_val.json, else the annotations' own folder.
    weights
        A weights file, or the name of a preset with released weights, for a preset as MODEL.
    results
        Instead of a model: a COCO result file of any tool.
    save_results
        Write the model's COCO results to this file.
    max_detections
        Objects a picture that count. Default: the model's own number, or 100 for a result file.
    batch_size
        Pictures of equal size that are computed together.
    json
        Write all numbers, 0 to 1 (-1: undefined), to this file; - is standard output.
    """
    if (model is None) == (results is None):
        raise ConfigError("name either a MODEL to run or --results FILE to score")
    settings = settings_of(options, flags, max_detections)
    if options.print_config and model is not None:
        return print_config_of(model, weights, settings)
    if annotations is None:
        raise ConfigError("--annotations is missing: name the COCO annotations to measure against")
    check_json_target(json)
    if save_results is not None:
        check_json_target(str(save_results.absolute()), "--save-results")
    if model is None:
        from htc.evaluation.run import evaluate_results

        assert results is not None
        metrics = evaluate_results(results, annotations, max_detections or 100)
    else:
        metrics = _of_model(model, weights, annotations, images, save_results, batch_size, options, settings)
    if json != STDOUT:
        print_metrics(metrics)
    write_json(json, metrics)
    return 0


def _of_model(
    model: str, weights: str | None, annotations: Path, images: Path | None, save: Path | None, batch_size: int, options: ModelOptions, settings: Any
) -> dict[str, Any]:
    known = check_model(model, weights, settings)
    check_released(model, weights)
    check_torch()
    from htc.data.coco import read_coco
    from htc.evaluation.files import read_annotations
    from htc.evaluation.run import evaluate_model, match_categories
    from htc.inference.outputs import results_file

    truth = read_annotations(annotations)
    if known is not None:
        match_categories(known.classes, truth)
    folder = images or _beside(annotations)
    read_coco(annotations, folder)
    predictor = load_predictor(model, weights, settings, options)
    with progress("evaluate") as bar:
        metrics, found = evaluate_model(predictor, annotations, folder, None, lambda done, total: bar(done, total, ""), batch_size)
    if save is not None:
        with results_file(save) as file:
            file.add(found)
        say(f"{len(found)} results in {save}")
    return metrics


def _beside(annotations: Path) -> Path:
    """The pictures' folder by COCO's layout: annotations/instances_val2017.json -> val2017; else the annotations' own folder."""
    split = annotations.stem.rsplit("_", 1)[-1]
    sibling = annotations.parent.parent / split
    return sibling if sibling.is_dir() else annotations.parent


def print_metrics(metrics: dict[str, Any]) -> None:
    """Box and mask numbers as a table in per cent, then each class."""
    names = list(metrics["bbox"])
    rows = [[label, *(_percent(metrics[kind][name]) for name in names)] for kind, label in KINDS.items() if kind in metrics]
    table(["", *names], rows)
    classes = metrics.get("per_class", {})
    if len(classes) > 1:
        print()
        table(["class", *(f"{KINDS[kind]} AP" for kind in KINDS if kind in metrics)], [[name, *map(_percent, ap.values())] for name, ap in classes.items()])


def _percent(value: float) -> str:
    return "-" if value < 0 else f"{100 * value:.1f}"

"""`htc evaluate`: COCO numbers of a model, or of any tool's result file."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from htc.cli.model import check_model, check_released, load_predictor, print_config_of, settings_of
from htc.cli.options import Count, File, Flags, Folder, JsonTarget, ModelOptions, Name, Words
from htc.cli.output import STDOUT, check_json_target, progress, say, table, write_json
from htc.compatibility import check_torch
from htc.errors import ConfigError

if TYPE_CHECKING:
    from htc.inference.predictor import Predictor

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
    stages: Words | None = None,
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
    stages
        Measure these mask stages too, each by itself or averaged: 1 2 3 1-3 (the paper's Table 4); 1,3 averages two.
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
    subsets = _subsets(stages, model)
    check_json_target(json)
    if save_results is not None:
        check_json_target(str(save_results.absolute()), "--save-results")
    if model is None:
        from htc.evaluation.run import evaluate_results

        assert results is not None
        metrics = evaluate_results(results, annotations, max_detections or 100)
    else:
        metrics = _of_model(model, weights, annotations, images, subsets, save_results, batch_size, options, settings)
    if json != STDOUT:
        print_metrics(metrics)
    write_json(json, metrics)
    return 0


def _subsets(stages: list[str] | None, model: str | None) -> list[tuple[int, ...]]:
    if stages and model is None:
        raise ConfigError("--stages: a result file holds masks of one kind; name a MODEL to measure its stages")
    if not stages:
        return []
    check_torch()
    from htc.evaluation.stages import parse_stages

    return list(dict.fromkeys(parse_stages(text) for text in stages))


def _of_model(
    model: str,
    weights: str | None,
    annotations: Path,
    images: Path | None,
    subsets: Sequence[tuple[int, ...]],
    save: Path | None,
    batch_size: int,
    options: ModelOptions,
    settings: Any,
) -> dict[str, Any]:
    known = check_model(model, weights, settings)
    check_released(model, weights)
    check_torch()
    from htc.data.coco import read_coco
    from htc.evaluation.files import read_annotations
    from htc.evaluation.run import match_categories
    from htc.inference.outputs import results_file

    truth = read_annotations(annotations)
    if known is not None:
        match_categories(known.classes, truth)
    folder = images or _beside(annotations)
    read_coco(annotations, folder)
    predictor = load_predictor(model, weights, settings, options)
    metrics, found = _measured(predictor, annotations, folder, subsets, batch_size)
    if save is not None:
        with results_file(save) as file:
            file.add(found)
        say(f"{len(found)} results in {save}")
    return metrics


def _measured(predictor: "Predictor", annotations: Path, folder: Path, subsets: Sequence[tuple[int, ...]], batch_size: int) -> tuple[dict[str, Any], Any]:
    """The model's own numbers and results; those of the stages beside them."""
    from htc.evaluation.run import evaluate_model
    from htc.evaluation.stages import measure_stages, stages_name
    from htc.inference.stages import mask_stages_of

    with progress("evaluate") as bar:
        if not subsets:
            return evaluate_model(predictor, annotations, folder, None, lambda done, total: bar(done, total, ""), batch_size)
        own = mask_stages_of(predictor)
        wanted = list(dict.fromkeys([*subsets, own]))
        each, results = measure_stages(predictor, annotations, folder, wanted, None, lambda done, total: bar(done, total, ""), batch_size)
    return {**each[own], "stages": {stages_name(subset): each[subset] for subset in subsets}}, results[own]


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
    if "stages" in metrics:
        print()
        rows = [[f"stage {name}" if name.isdecimal() else f"stages {name}", *_both(one)] for name, one in metrics["stages"].items()]
        table(["masks of", *(f"{label} {number}" for kind, label in KINDS.items() if kind in metrics for number in ("AP", "AP50", "AP75"))], rows)
    classes = metrics.get("per_class", {})
    if len(classes) > 1:
        print()
        table(["class", *(f"{KINDS[kind]} AP" for kind in KINDS if kind in metrics)], [[name, *map(_percent, ap.values())] for name, ap in classes.items()])


def _both(metrics: dict[str, Any]) -> list[str]:
    return [_percent(metrics[kind][number]) for kind in KINDS if kind in metrics for number in ("AP", "AP50", "AP75")]


def _percent(value: float) -> str:
    return "-" if value < 0 else f"{100 * value:.1f}"

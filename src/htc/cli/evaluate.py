"""`htc evaluate`: COCO numbers of a model, or of any tool's result file."""

from collections.abc import Mapping
from typing import Annotated, Any

from cyclopts import Parameter

from htc.cli.maps import Maps, check_maps
from htc.cli.measuring import Asked, of_model, of_results
from htc.cli.model import print_config_of, settings_of
from htc.cli.options import MODEL_OPTIONS, Count, File, Flags, Folder, JsonTarget, ModelOptions, Name, Switch, Words
from htc.cli.output import STDOUT, check_json_target, print_table, write_json_result
from htc.cli.semantic import NO_MAPS, MapFlags
from htc.compatibility import check_torch
from htc.errors import ConfigError

KINDS = {"bbox": "boxes", "segm": "masks"}


def evaluate(
    model: Annotated[list[str] | None, Parameter(name="MODEL", negative="")] = None,
    /,
    *,
    annotations: File | None = None,
    images: Folder | None = None,
    weights: Name | None = None,
    augment: Annotated[str | None, Parameter(metavar="SPEC")] = None,
    results: File | None = None,
    against: File | None = None,
    stages: Words | None = None,
    save_results: File | None = None,
    max_detections: Count | None = None,
    batch_size: Count = 1,
    semantic: Annotated[str | None, Parameter(metavar="auto|DIR")] = None,
    map_flags: MapFlags = NO_MAPS,
    panoptic_json: File | None = None,
    panoptic_dir: Folder | None = None,
    save_panoptic: Folder | None = None,
    diagnostics: Switch = False,
    html: File | None = None,
    json: JsonTarget = None,
    options: ModelOptions = MODEL_OPTIONS,
    flags: Flags = (),
) -> int:
    """Measure box and mask average precision on annotated pictures.

    Parameters
    ----------
    model
        A preset name, a native or run folder, or a .pth or .safetensors file; several: their ensemble, and each of
        them.
    annotations
        COCO annotations of the pictures.
    images
        Folder of the pictures. Default: val for annotations/instances_val.json, else the annotations' own folder.
    weights
        A weights file, or the name of a preset with released weights, for a preset as MODEL.
    augment
        Look at each picture in several views: scales, then :flip, as in 0.75,1,1.25:flip or 600x900,800x1200; or paper.
    results
        Instead of a model: a COCO result file of any tool.
    against
        Another COCO result file of the same pictures: the difference in AP, with its 95 % interval over pictures.
    stages
        Measure these mask stages too, each by itself or averaged: 1 2 3 1-3 (the paper's Table 4); 1,3 averages two.
    save_results
        Write the model's COCO results to this file; of pictures without annotations too, as COCO's test pictures are.
    max_detections
        Objects a picture that count. Default: the model's own number, or 100 for a result file.
    batch_size
        Pictures of equal size that are computed together.
    semantic
        Measure the semantic map too: auto against maps derived from the instances, or against the PNG maps of DIR.
    panoptic_json
        Measure instances and semantic map merged, too: COCO panoptic annotations of the same pictures.
    panoptic_dir
        Folder of their PNGs. Default: beside the JSON, called like it.
    save_panoptic
        Write the merged maps into this new folder: a PNG a picture, and panoptic.json.
    diagnostics
        Measure more: boundary AP, best score thresholds, calibration, confusion, errors by kind, AP by IoU and size.
    html
        Write the diagnostics, with curves and the worst pictures, as one page to this file.
    json
        Write all numbers, 0 to 1 (-1: undefined), to this file; - is standard output.
    """
    if bool(model) == (results is not None):
        raise ConfigError("name either a MODEL to run or --results FILE to score")
    if results is not None and augment is not None:
        raise ConfigError("--augment needs a MODEL: a result file holds what was found already")
    settings = settings_of(options, flags, max_detections)
    if options.print_config and model:
        return print_config_of(model[0], weights, settings)
    if annotations is None:
        raise ConfigError("--annotations is missing: name the COCO annotations to measure against")
    subsets = _subsets(stages, model[0] if model else None)
    check_json_target(json)
    for target, flag in ((save_results, "--save-results"), (html, "--html")):
        if target is not None:
            check_json_target(str(target.absolute()), flag)
    maps = Maps(map_flags.measured(semantic), panoptic_json, panoptic_dir, save_panoptic)
    check_maps(maps, model[0] if model else None, subsets)
    asked = Asked(annotations, images, subsets, save_results, batch_size, diagnostics, html, maps, augment, against)
    metrics = (
        of_results(results, max_detections or 100, asked)
        if results is not None
        else of_model(model or [], weights, options, settings, asked)
    )
    if metrics is None:
        return 0
    if json != STDOUT:
        print_metrics(metrics)
    write_json_result(json, metrics)
    return 0


def _subsets(stages: list[str] | None, model: str | None) -> list[tuple[int, ...]]:
    if stages and model is None:
        raise ConfigError("--stages: a result file holds masks of one kind; name a MODEL to measure its stages")
    if not stages:
        return []
    check_torch()
    from htc.evaluation.run import parse_stages

    return list(dict.fromkeys(parse_stages(text) for text in stages))


def print_metrics(metrics: dict[str, Any]) -> None:
    """Box and mask numbers as a table in per cent, then each class."""
    names = list(metrics["bbox"])
    rows = [
        [label, *(_percent(metrics[kind][name]) for name in names)] for kind, label in KINDS.items() if kind in metrics
    ]
    print_table(["", *names], rows)
    if "members" in metrics:
        print()
        columns = [(kind, number) for kind in KINDS if kind in metrics for number in ("AP", "AP50", "AP75")]
        named = [*metrics["members"].items(), ("together", metrics)]
        rows = [
            [name, *(_percent(one[kind][number]) if kind in one else "-" for kind, number in columns)]
            for name, one in named
        ]
        print_table(["model", *(f"{KINDS[kind]} {number}" for kind, number in columns)], rows)
    if "against" in metrics:
        print()
        rows = [[KINDS[kind], *_difference(metrics[kind]["AP"], other)] for kind, other in metrics["against"].items()]
        print_table(["AP", "here", "there", "difference", "95 % of draws"], rows)
    if "stages" in metrics:
        print()
        rows = [
            [f"stage {name}" if name.isdecimal() else f"stages {name}", *_both(one)]
            for name, one in metrics["stages"].items()
        ]
        print_table(
            [
                "masks of",
                *(
                    f"{label} {number}"
                    for kind, label in KINDS.items()
                    if kind in metrics
                    for number in ("AP", "AP50", "AP75")
                ),
            ],
            rows,
        )
    if "semantic" in metrics:
        print(
            f"\nsemantic map: mean IoU {_percent(metrics['semantic']['mIoU'])}, pixels right "
            f"{_percent(metrics['semantic']['pixel_accuracy'])}"
        )
    if "panoptic" in metrics:
        print()
        parts = {
            "all": metrics["panoptic"],
            "things": metrics["panoptic"]["things"],
            "stuff": metrics["panoptic"]["stuff"],
        }
        print_table(
            ["panoptic", "PQ", "SQ", "RQ"],
            [[name, *(_percent(part[key]) for key in ("PQ", "SQ", "RQ"))] for name, part in parts.items()],
        )
    if "diagnostics" in metrics:
        print()
        _print_diagnostics(metrics["diagnostics"])
    classes = metrics.get("per_class", {})
    if len(classes) > 1:
        print()
        print_table(
            ["class", *(f"{KINDS[kind]} AP" for kind in KINDS if kind in metrics)],
            [[name, *map(_percent, ap.values())] for name, ap in classes.items()],
        )


def _print_diagnostics(found: dict[str, Any]) -> None:
    """Boundary AP, the best threshold and calibration in one line each, then the errors by kind."""
    best = found["best_f1"]["all"]
    if found["boundary"] is not None:
        print(
            f"boundary AP {_percent(found['boundary']['AP'])}, AP50 {_percent(found['boundary']['AP50'])}, AP75 "
            f"{_percent(found['boundary']['AP75'])}"
        )
    if best["threshold"] >= 0:
        parts = f"precision {_percent(best['precision'])}, recall {_percent(best['recall'])}"
        print(f"best F1 {_percent(best['f1'])} at scores from {best['threshold']:.2f} ({parts})")
    print(f"calibration error {_percent(found['calibration']['error'])}")
    print()
    rows = [
        [name, str(kind["count"]), _percent(kind["cost"])]
        for name, kind in sorted(found["errors"].items(), key=lambda item: -item[1]["cost"])
    ]
    print_table(["errors", "number", "AP50 points they cost"], rows)


def _both(metrics: dict[str, Any]) -> list[str]:
    return [_percent(metrics[kind][number]) for kind in KINDS if kind in metrics for number in ("AP", "AP50", "AP75")]


def _difference(ap: float, other: Mapping[str, float]) -> list[str]:
    gain, low, high = (f"{100 * other[key]:+.1f}" for key in ("difference", "low", "high"))
    return [_percent(ap), _percent(other["AP"]), gain, f"{low} to {high}"]


def _percent(value: float) -> str:
    return "-" if value < 0 else f"{100 * value:.1f}"

"""Metrics as tables on standard output, as `htc evaluate`, `htc train` and `htc demo` print them."""

from collections.abc import Mapping
from typing import Any

from htc.cli.output import print_table
from htc.evaluation import KIND_NAMES
from htc.metrics import percent


def print_metrics(metrics: dict[str, Any]) -> None:
    """Print box and mask metrics as a table in percent, further metrics if present, then AP by class."""
    names = list(metrics["bbox"])
    rows = [
        [label, *(percent(metrics[kind][name]) for name in names)]
        for kind, label in KIND_NAMES.items()
        if kind in metrics
    ]
    print_table(["", *names], rows)
    if "members" in metrics:
        print()
        columns = [(kind, number) for kind in KIND_NAMES if kind in metrics for number in ("AP", "AP50", "AP75")]
        named = [*metrics["members"].items(), ("ensemble", metrics)]
        rows = [
            [name, *(percent(one[kind][number]) if kind in one else "-" for kind, number in columns)]
            for name, one in named
        ]
        print_table(["model", *(f"{KIND_NAMES[kind]} {number}" for kind, number in columns)], rows)
    if "against" in metrics:
        print()
        rows = [
            [KIND_NAMES[kind], *_difference(metrics[kind]["AP"], other)] for kind, other in metrics["against"].items()
        ]
        print_table(["AP", "this", "other", "difference", "95 % interval"], rows)
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
                    for kind, label in KIND_NAMES.items()
                    if kind in metrics
                    for number in ("AP", "AP50", "AP75")
                ),
            ],
            rows,
        )
    if "semantic" in metrics:
        print(
            f"\nsemantic map: mean IoU {percent(metrics['semantic']['mIoU'])}, pixel accuracy "
            f"{percent(metrics['semantic']['pixel_accuracy'])}"
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
            [[name, *(percent(part[key]) for key in ("PQ", "SQ", "RQ"))] for name, part in parts.items()],
        )
    if "diagnostics" in metrics:
        print()
        _print_diagnostics(metrics["diagnostics"])
    classes = metrics.get("per_class", {})
    if len(classes) > 1:
        print()
        print_table(
            ["class", *(f"{KIND_NAMES[kind]} AP" for kind in KIND_NAMES if kind in metrics)],
            [[name, *map(percent, ap.values())] for name, ap in classes.items()],
        )


def _print_diagnostics(diagnostics: dict[str, Any]) -> None:
    """Print boundary AP, the best threshold and calibration in a line each, then the errors by kind."""
    best = diagnostics["best_f1"]["all"]
    boundary = diagnostics["boundary"]
    if boundary is not None:
        print(
            f"boundary AP {percent(boundary['AP'])}, AP50 {percent(boundary['AP50'])}, AP75 {percent(boundary['AP75'])}"
        )
    if best["threshold"] >= 0:
        parts = f"precision {percent(best['precision'])}, recall {percent(best['recall'])}"
        print(f"best F1 {percent(best['f1'])} at score threshold {best['threshold']:.2f} ({parts})")
    print(f"calibration error {percent(diagnostics['calibration']['error'])}")
    print()
    rows = [
        [name, str(kind["count"]), percent(kind["cost"])]
        for name, kind in sorted(diagnostics["errors"].items(), key=lambda item: -item[1]["cost"])
    ]
    print_table(["errors", "count", "cost in AP50 points"], rows)


def _both(metrics: dict[str, Any]) -> list[str]:
    return [
        percent(metrics[kind][number]) for kind in KIND_NAMES if kind in metrics for number in ("AP", "AP50", "AP75")
    ]


def _difference(ap: float, other: Mapping[str, float]) -> list[str]:
    gain, low, high = (f"{100 * other[key]:+.1f}" for key in ("difference", "low", "high"))
    return [percent(ap), percent(other["AP"]), gain, f"{low} to {high}"]

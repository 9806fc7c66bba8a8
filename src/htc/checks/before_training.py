"""The fast part of `htc doctor`, as every training runs it before its first step."""

from pathlib import Path

from htc.checks.examine import fast_findings, fast_findings_between
from htc.checks.findings import Finding
from htc.checks.kinds import FINDING_KINDS
from htc.checks.maps import map_files
from htc.config import Config
from htc.data.annotation_file import read_annotation_file
from htc.data.coco import Splits
from htc.data.semantic_maps import MapSources
from htc.errors import DataError

FINDINGS_SHOWN = 5
"""Errors that are named; `htc doctor` shows all."""


def check_data(config: Config, splits: Splits, maps: MapSources | None = None) -> tuple[str, ...]:
    """One line for each kind of warning. No pixel is read: about a millisecond an image.

    `maps`: of their folder the headers are read; what it may lack are images with panoptic maps. Raises `DataError`
    that names the errors, their files and ids.
    """
    train = read_annotation_file(splits.train_annotations, splits.train_images, "train")
    found = list(fast_findings(train, config.input, config.inference.max_detections))
    if maps is not None and maps.folder is not None:
        found += [
            one for one in map_files(train, maps.folder) if maps.panoptic_json is None or one.code != "semantic-missing"
        ]
    if splits.val_annotations is not None and splits.val_images is not None:
        val = read_annotation_file(splits.val_annotations, splits.val_images, "val")
        found += fast_findings(val, config.input, config.inference.max_detections)
        found += fast_findings_between(train, val)
    errors = [finding for finding in found if FINDING_KINDS[finding.code].severity == "error"]
    if errors:
        raise DataError(_named(errors, splits))
    warnings: dict[str, list[Finding]] = {}
    for finding in found:
        if FINDING_KINDS[finding.code].severity == "warning":
            warnings.setdefault(finding.code, []).append(finding)
    return tuple(_line(code, findings) for code, findings in warnings.items())


def _named(errors: list[Finding], splits: Splits) -> str:
    lines = [
        f"\n  {_where(finding, finding.file)}: {finding.what}; {FINDING_KINDS[finding.code].remedy} ({finding.code})"
        for finding in errors[:FINDINGS_SHOWN]
    ]
    more = f"\n  ... and {len(errors) - FINDINGS_SHOWN} more" if len(errors) > FINDINGS_SHOWN else ""
    return (
        f"the data have {len(errors)} error{'s' if len(errors) > 1 else ''}:{''.join(lines)}{more}\nall of them: "
        f"{_doctor(splits)}"
    )


def _line(code: str, findings: list[Finding]) -> str:
    first, times = findings[0], f" ({len(findings)} times)" if len(findings) > 1 else ""
    return (
        f"warning: {FINDING_KINDS[code].title}{times}: {_where(first, first.file.name)}: {first.what}; "
        f"{FINDING_KINDS[code].remedy} "
        f"({code})"
    )


def _where(finding: Finding, file: Path | str) -> str:
    return str(file) if finding.place == finding.file.name else f"{file}, {finding.place}"


def _doctor(splits: Splits) -> str:
    val = (
        ""
        if splits.val_annotations is None
        else f" --val-annotations {splits.val_annotations} --val-images {splits.val_images}"
    )
    return f"htc doctor {splits.train_annotations} {splits.train_images}{val}"

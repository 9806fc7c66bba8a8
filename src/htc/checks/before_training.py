"""The fast checks of `htc doctor`, which every training runs before its first step."""

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
"""Maximum number of errors in the message; `htc doctor` shows all."""


NOTES_SHOWN = ("mask-missing", "annotation-ignored", "picture-name", "category-parent")
"""Notes that change what is learned, or from which files."""


def check_data(config: Config, splits: Splits, maps: MapSources | None = None) -> tuple[str, ...]:
    """Check the dataset without decoding images (about a millisecond per image) and return a line per kind of warning,
    and of notes that matter for a training.

    Of `maps`, the headers of the files in the folder are read; with panoptic maps, the folder need not have a map for
    every image. Raises a `DataError` with the first errors, their files and ids.
    """
    train = read_annotation_file(splits.train_annotations, splits.train_images, "train", holes=splits.holes)
    findings = list(fast_findings(train, config.input, config.inference.max_detections))
    if maps is not None and maps.folder is not None:
        findings += [
            one for one in map_files(train, maps.folder) if maps.panoptic_json is None or one.code != "semantic-missing"
        ]
    if splits.val_annotations is not None and splits.val_images is not None:
        val = read_annotation_file(splits.val_annotations, splits.val_images, "val", holes=splits.holes)
        findings += fast_findings(val, config.input, config.inference.max_detections)
        findings += fast_findings_between(train, val)
    errors = [finding for finding in findings if FINDING_KINDS[finding.code].severity == "error"]
    if errors:
        raise DataError(_named(errors, splits))
    warnings: dict[str, list[Finding]] = {}
    for finding in findings:
        if FINDING_KINDS[finding.code].severity == "warning" or finding.code in NOTES_SHOWN:
            warnings.setdefault(finding.code, []).append(finding)
    return tuple(_line(code, of_code) for code, of_code in warnings.items())


def _named(errors: list[Finding], splits: Splits) -> str:
    lines = [
        f"\n  {_where(finding, finding.file)}: {finding.what}; {FINDING_KINDS[finding.code].remedy} ({finding.code})"
        for finding in errors[:FINDINGS_SHOWN]
    ]
    more = f"\n  ... and {len(errors) - FINDINGS_SHOWN} more" if len(errors) > FINDINGS_SHOWN else ""
    return (
        f"the dataset has {len(errors)} error{'s' if len(errors) > 1 else ''}:{''.join(lines)}{more}\nTo see all: "
        f"{_doctor(splits)}"
    )


def _line(code: str, findings: list[Finding]) -> str:
    first, times = findings[0], f" ({len(findings)} times)" if len(findings) > 1 else ""
    return (
        f"{FINDING_KINDS[code].severity}: {FINDING_KINDS[code].title}{times}: "
        f"{_where(first, first.file.name)}: {first.what}; {FINDING_KINDS[code].remedy} ({code})"
    )


def _where(finding: Finding, file: Path | str) -> str:
    return str(file) if finding.location == finding.file.name else f"{file}, {finding.location}"


def _doctor(splits: Splits) -> str:
    val = (
        ""
        if splits.val_annotations is None
        else f" --val-annotations {splits.val_annotations} --val-images {splits.val_images}"
    )
    return f"htc doctor {splits.train_annotations} {splits.train_images}{val}"

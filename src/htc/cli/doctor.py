"""`htc doctor`: what is wrong with a data set, why it matters, what to do; and the corrected file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from htc.cli.options import Count, File, Folder, JsonTarget
from htc.cli.output import STDOUT, check_json_target, progress, say, write_json_result
from htc.compatibility import check_torch
from htc.errors import ConfigError

if TYPE_CHECKING:
    from htc.doctor.examine import Examination, Request


def doctor(
    annotations: Annotated[Path, Parameter(name="ANNOTATIONS")],
    images: Annotated[Path | None, Parameter(name="IMAGES")] = None,
    /,
    *,
    semantic: Folder | None = None,
    semantic_classes: Count = 183,
    val_annotations: File | None = None,
    val_images: Folder | None = None,
    max_detections: Count = 100,
    fix: File | None = None,
    html: File | None = None,
    json: JsonTarget = None,
) -> int:
    """Examine a data set: find what is wrong, say why it matters and what to do, correct what is safe into a new file.

    Exit code 0: nothing is wrong (notes may be there); 1: errors or warnings were found; 2: the data cannot be
    examined.

    Parameters
    ----------
    annotations
        COCO annotations; or the folder of a whole data set (data/coco), whose training and validation parts are
        examined.
    images
        Folder of the pictures.
    semantic
        Folder of PNG semantic maps of the pictures.
    semantic_classes
        Their classes: values 0 to one less, and 255.
    val_annotations
        COCO annotations of the validation part: it is examined too, and both are compared.
    val_images
        Its pictures.
    max_detections
        Detections a picture that the model will be allowed.
    fix
        Write the annotations, corrected where that is safe, to this new file.
    html
        Write a page with pictures of what was found to this file.
    json
        Write everything found to this file; - is standard output.
    """
    check_json_target(json)
    for target, flag in ((fix, "--fix"), (html, "--html")):
        if target is not None:
            check_json_target(str(target.absolute()), flag)
    check_torch()
    from htc.doctor.examine import examine
    from htc.doctor.report import report_lines, to_json

    request = _request(annotations, images, val_annotations, val_images, semantic, semantic_classes, max_detections)
    with progress("doctor") as bar:
        examination = examine(request, lambda done, total: bar(done, total, ""))
    fixed = None if fix is None else _fix(request, fix)
    if json != STDOUT:
        print("\n".join(report_lines(examination)))
    write_json_result(json, to_json(examination, fixed))
    if html is not None:
        _write_page(examination, html, fixed)
    return int(examination.faulty)


def _request(
    annotations: Path,
    images: Path | None,
    val_annotations: Path | None,
    val_images: Path | None,
    semantic: Path | None,
    semantic_classes: int,
    max_detections: int,
) -> "Request":
    from htc.doctor.examine import Request, examine_root
    from htc.doctor.part import read_part

    if (val_annotations is None) != (val_images is None):
        raise ConfigError("--val-annotations and --val-images go together: give both or neither")
    found = ()
    if images is None:
        if annotations.is_file():
            raise ConfigError(f"IMAGES is missing: name the folder of the pictures that {annotations} lists")
        root = examine_root(annotations)
        annotations, images, found = root.splits.train_annotations, root.splits.train_images, root.findings
        if val_annotations is None:
            val_annotations, val_images = root.splits.val_annotations, root.splits.val_images
        semantic = semantic or root.maps
    train = read_part(annotations, images, "train" if val_annotations else "")
    val = None if val_annotations is None or val_images is None else read_part(val_annotations, val_images, "val")
    return Request(train, val, semantic, semantic_classes, max_detections, found)


def _fix(request: "Request", target: Path) -> dict[str, Any]:
    """Writes the corrected training annotations, if anything can be corrected; what was."""
    from htc.doctor.examine import repairable
    from htc.doctor.repair import repair, write_annotations

    repaired = repair(request.train, repairable(request))
    if not repaired.corrected:
        say(f"nothing in {request.train.file} can be corrected without a person: {target} is not written")
        return {"file": None, "corrected": {}}
    write_annotations(target, repaired.content)
    listed = ", ".join(f"{count} x {code}" for code, count in repaired.corrected.items())
    say(f"corrected ({listed}) in {target}; {request.train.file} is as it was")
    return {"file": str(target), "corrected": repaired.corrected}


def _write_page(examination: "Examination", target: Path, fixed: dict[str, Any] | None) -> None:
    from htc.doctor.page import page_of
    from htc.visual.page import write_page

    write_page(target, page_of(examination, fixed))
    say(f"the page is {target}")

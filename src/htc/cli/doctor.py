"""`htc doctor`: what is wrong with a data set, why it matters, what to do; and the corrected file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from htc.cli.existing import check_dataset, check_files, check_folders
from htc.cli.options import Count, File, Folder, JsonTarget
from htc.cli.output import STDOUT, check_json_target, print_or_write_json, progress, say
from htc.compatibility import check_torch

if TYPE_CHECKING:
    from htc.checks.examine import Request
    from htc.checks.repair import RepairedFile


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
    check_dataset(annotations, images)
    check_files({"--val-annotations": val_annotations})
    check_folders({"--val-images": val_images, "--semantic": semantic})
    check_torch()
    from htc.checks.examine import examine, read_request
    from htc.checks.report import report_lines, to_json

    request = read_request(
        annotations,
        images,
        val_annotations=val_annotations,
        val_images=val_images,
        semantic=semantic,
        semantic_classes=semantic_classes,
        max_detections=max_detections,
    )
    with progress("doctor") as bar:
        examination = examine(request, lambda done, total: bar(done, total, ""))
    fixed = None if fix is None else _fix(request, fix)
    if json != STDOUT:
        print("\n".join(report_lines(examination)))
    print_or_write_json(json, to_json(examination, fixed))
    if html is not None:
        from htc.checks.page import write_examination

        write_examination(html, examination, fixed)
        say(f"the page is {html}")
    return int(examination.faulty)


def _fix(request: "Request", target: Path) -> "RepairedFile":
    """Write the corrected annotations and report it."""
    from htc.checks.repair import write_repaired

    fixed, examined = write_repaired(request, target), request.train.file
    if fixed.file is None:
        say(f"nothing in {examined} can be corrected without a person: {target} is not written")
    else:
        say(f"corrected ({fixed.summary}) in {target}; {examined} is as it was")
    return fixed

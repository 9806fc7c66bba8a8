"""`htc doctor`: what is wrong with a data set, why it matters, what to do; and the corrected file."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from htc.cli.existing import check_dataset, check_files, check_folders
from htc.cli.options import Count, File, Folder, JsonTarget
from htc.cli.output import STDOUT, check_json_target, print_or_write_json, say
from htc.compatibility import check_torch
from htc.extras import require
from htc.run_folders import require_new_file


def doctor(
    data: Annotated[Path, Parameter(name="DATA")],
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
    data
        Folder of a COCO dataset, whose training and validation parts are examined; or a COCO annotation file.
    images
        Folder of the images.
    semantic
        Folder of PNG semantic maps of the images.
    semantic_classes
        Their classes: values 0 to one less, and 255.
    val_annotations
        COCO annotations of the validation part: it is examined too, and both are compared.
    val_images
        Its images.
    max_detections
        Detections an image that the model will be allowed.
    fix
        Write the annotations, corrected where that is safe, to this new file.
    html
        Write a page with images of what was found to this file.
    json
        Write everything found to this file; - is standard output.
    """
    check_json_target(json)
    for target, flag in ((fix, "--fix"), (html, "--html")):
        if target is not None:
            require_new_file(target, flag)
    check_dataset(data, images)
    check_files({"--val-annotations": val_annotations})
    check_folders({"--val-images": val_images, "--semantic": semantic})
    if html is not None:
        require("evaluate", "--html")
    check_torch()
    from htc.checks.doctor import doctor as examine

    report = examine(
        data,
        images,
        semantic=semantic,
        semantic_classes=semantic_classes,
        val_annotations=val_annotations,
        val_images=val_images,
        max_detections=max_detections,
        fix=fix,
        html=html,
    )
    if json != STDOUT:
        print(report)
    print_or_write_json(json, report.to_dict())
    if report.fixed is not None and report.fixed.file is None:
        say(f"nothing can be corrected without a person: {fix} is not written")
    elif report.fixed is not None:
        say(f"corrected ({report.fixed.summary}) in {fix}; the examined file is unchanged")
    if html is not None:
        say(f"page: {html}")
    return 0 if report.ok else 1

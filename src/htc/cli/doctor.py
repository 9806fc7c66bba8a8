"""`htc doctor`: report the faults of a dataset and how to fix them, and write corrected annotations."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from htc.cli.existing import check_dataset, check_files, check_folders
from htc.cli.options import Count, File, Folder, JsonTarget, LabelMaps
from htc.cli.output import STDOUT, check_json_target, print_message, print_or_write_json
from htc.compatibility import check_torch
from htc.data.formats.map_rules import AUTO
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
    label_maps: LabelMaps = AUTO,
    coco_holes: Literal["on", "off"] = "on",
    max_detections: Count = 100,
    fix: File | None = None,
    html: File | None = None,
    json: JsonTarget = None,
) -> int:
    """Examine a dataset and report every fault with its file, image and annotation, why it matters and what to do.

    Exit code 0: no errors or warnings (notes are possible); 1: errors or warnings; 2: the dataset cannot be examined.

    Parameters
    ----------
    data
        Folder of a dataset in any format that `htc train` takes, whose training and validation sets are examined, or a
        COCO annotation file (then with IMAGES).
    images
        Folder of the images of an annotation file.
    semantic
        Folder of PNG semantic maps of the training images.
    semantic_classes
        Number of classes N in the maps, whose values are 0 to N - 1, or 255 (ignored).
    val_annotations
        COCO annotations of the validation set, which is examined and compared with the training set.
    val_images
        Folder of the validation images.
    label_maps
        How label maps are read, as for `htc train`.
    coco_holes
        Whether polygons inside others are holes, as for `htc train`.
    max_detections
        Maximum number of detections of an image that the model will have.
    fix
        Write the annotations with all safe corrections to this new file.
    html
        Write a page with images of the findings to this new file.
    json
        Write the findings to this JSON file; - is standard output.
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
        label_maps=label_maps,
        coco_holes=coco_holes,
        max_detections=max_detections,
        fix=fix,
        html=html,
    )
    if json != STDOUT:
        print(report)
    print_or_write_json(json, report.to_dict())
    if report.fixed is not None and report.fixed.file is None:
        print_message(f"no fault can be corrected automatically; {fix} was not written")
    elif report.fixed is not None:
        for change in report.fixed.changes:
            print_message(str(change))
        print_message(f"corrected annotations ({report.fixed.summary}): {fix}; the examined file is unchanged")
    if html is not None:
        print_message(f"page: {html}")
    return 0 if report.ok else 1

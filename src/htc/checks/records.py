"""Checks of records: ids, references and categories in one part; images and groups in both training and validation."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from htc.checks.findings import Edit, Finding, ListName, annotation_finding, record_finding
from htc.data.annotation_file import AnnotationFile
from htc.data.coco_records import AnnotationEntry, ImageEntry, category_fault
from htc.data.faults import RecordFault
from htc.data.image_headers import image_size
from htc.data.image_names import portable
from htc.data.image_pages import file_and_page
from htc.data.record_values import own_id, short, whole
from htc.errors import DataError

MOSTLY = 0.5
"""Minimum share of annotations that belong to an image; below, no annotation is removed."""


def image_records(part: AnnotationFile) -> Iterator[Finding]:
    """Report unusable image records; equal records of one id are removed and missing sizes are written."""
    for fault in part.image_faults:
        edits, fixed_by = (), ""
        if fault.code == "image-id-twice":
            assert fault.image is not None
            assert fault.position is not None
            if part.content["images"][fault.position] == part.by_id[fault.image].record:
                edits, fixed_by = (Edit("images", fault.position, None),), "the second image record removed"
        elif fault.code == "image-size-missing":
            edits, fixed_by = _size_edit(part, fault), "the size of the image written"
        yield record_finding(part, fault, edits, fixed_by)


def _size_edit(part: AnnotationFile, fault: RecordFault) -> tuple[Edit, ...]:
    entry = next(image for image in part.images if image.position == fault.position)
    try:
        height, width = image_size(entry.path)
    except DataError:  # the image has its own finding
        return ()
    return (Edit("images", entry.position, {"height": height, "width": width}),)


def annotation_records(part: AnnotationFile) -> Iterator[Finding]:
    """Report unusable annotations, and those without an id, which get a new one."""
    if part.columns is not None:
        return  # its annotations have ids, images and categories
    records = part.content["annotations"]
    used = (whole(record.get("id")) for record in records if isinstance(record, dict))
    free = max((id for id in used if id is not None), default=0) + 1
    nameless = [
        RecordFault("annotation-id-missing", f"its id is {own!r}", "annotations", one.position, one.image.id, one.id)
        for one in part.annotations
        if own_id(own := one.record.get("id")) is None
    ]
    # If many annotations belong to no image, the list of images is probably wrong.
    removable = len(part.annotations) > MOSTLY * len(records)
    for fault in sorted((*part.annotation_faults, *nameless), key=lambda fault: fault.position or 0):
        assert fault.position is not None
        if fault.code in ("annotation-id-missing", "annotation-id-twice"):
            edits, fixed_by = (Edit("annotations", fault.position, {"id": free}),), "a new id written"
            free += 1
        elif fault.code == "annotation-record" or removable:
            edits, fixed_by = (Edit("annotations", fault.position, None),), "the annotation removed"
        else:
            edits, fixed_by = (), ""
        yield record_finding(part, fault, edits, fixed_by)


def check_categories(part: AnnotationFile) -> Iterator[Finding]:
    """Report unusable categories, and names that look alike."""
    records = part.content["categories"]
    for fault in part.category_faults:
        edits, fixed_by = (), ""
        if fault.code == "category-id-twice":
            assert fault.position is not None
            record = records[fault.position]
            first = next(one for one in records if isinstance(one, dict) and one.get("id") == record["id"])
            if first == record:
                edits, fixed_by = (Edit("categories", fault.position, None),), "the second of two equal records removed"
        yield record_finding(part, fault, edits, fixed_by)
    names: dict[str, str] = {}
    for name in part.classes.values():
        plain = " ".join(name.lower().replace("_", " ").split())
        if names.setdefault(plain, name) != name:
            yield Finding("category-names-alike", f"{names[plain]!r} and {name!r}", part.file)


def labels(part: AnnotationFile) -> Iterator[Finding]:
    """Report annotations without a known category."""
    if not (part.table.labels < 0).any():
        return
    known = set(part.classes)
    used = {id for one in part.annotations if (id := one.category) is not None}
    shifted = next((by for by in (1, -1) if used - known and {id + by for id in used} <= known), None)
    hint = (
        f"; all category ids would fit if they were {'one larger' if shifted == 1 else 'one smaller'}"
        if shifted is not None
        else ""
    )
    for one in part.annotations:
        fault = category_fault(one, known)
        if fault is not None:
            what = f"{fault.what} ({len(known)} ids, {_span(known)}){hint}"
            yield annotation_finding(part, one, fault.code, what)


def _span(ids: set[int]) -> str:
    return f"{min(ids)} to {max(ids)}" if ids else "none"


def value_types(part: AnnotationFile) -> Iterator[Finding]:
    """Report, once for each field, values of another type than COCO's whose meaning is certain."""
    if part.columns is not None:
        return  # all its values are as COCO writes them
    of_field: dict[tuple[ListName, str], list[tuple[Any, Any, Edit]]] = {}
    categories = [
        (position, record, {"id": id})
        for position, record in enumerate(part.content["categories"])
        if isinstance(record, dict) and (id := whole(record.get("id"))) is not None and type(record["id"]) is not int
    ]
    kinds: tuple[tuple[ListName, list[tuple[int, Any, dict[str, Any]]]], ...] = (
        ("images", [(one.position, one, one.in_coco_types) for one in part.images]),
        ("annotations", [(one.position, one, one.in_coco_types) for one in part.annotations]),
        ("categories", categories),
    )
    for kind, entries in kinds:
        for position, entry, values in entries:
            for name, value in values.items():
                record = entry if isinstance(entry, dict) else entry.record
                edit = Edit(kind, position, {name: value})
                of_field.setdefault((kind, name), []).append((entry, record[name], edit))
    for (kind, name), found in of_field.items():
        entry, stated, edit = found[0]
        assert edit.change is not None
        what = (
            f"{name} of {len(found)} of {len(part.content[kind])} {kind} is not written as COCO does: {short(stated)}, "
            f"which is used as {short(edit.change[name])}"
        )
        image = None if isinstance(entry, dict) else entry if isinstance(entry, ImageEntry) else entry.image
        yield Finding(
            "value-type",
            what,
            part.file,
            None if image is None else image.id,
            None if image is None else image.path,
            entry.id if isinstance(entry, AnnotationEntry) else None,
            edits=tuple(edit for _, _, edit in found),
            fixed_by="the values written as COCO does",
        )


def parents(part: AnnotationFile) -> Iterator[Finding]:
    """Report categories that are only the supercategory of the others."""
    for id, name in part.parents.items():
        what = f"{name!r} (id {id}) has no annotation and is the supercategory of all others"
        yield Finding("category-parent", what, part.file)


RECORD_CHECKS = (image_records, annotation_records, check_categories, labels, value_types, parents)


def compare_categories(train: AnnotationFile, val: AnnotationFile) -> Iterator[Finding]:
    """Report differences between the categories of both parts. Classes are matched by name, so a class that only the
    validation set has cannot be predicted.
    """
    ids = {name: id for id, name in train.classes.items()}
    for id, name in val.classes.items():
        if name not in ids:
            yield Finding("categories-differ", f"{name!r} (id {id}) is not in {train.file.name}", val.file)
        elif ids[name] != id:
            yield Finding(
                "category-ids-differ", f"{name!r} has id {id} here and {ids[name]} in {train.file.name}", val.file
            )


def groups(train: AnnotationFile, val: AnnotationFile) -> Iterator[Finding]:
    """Report values of `group` in the image records of both parts."""
    of_train = {
        image.record["group"]: image for image in train.images if isinstance(image.record.get("group"), int | str)
    }
    for image in val.images:
        group = image.record.get("group")
        if isinstance(group, int | str) and group in of_train:
            what = f"{image.name} has the group {group!r}, as has the training image {of_train[group].name}"
            yield Finding("group-leaked", what, val.file, image.id, image.path)


def compare_files(train: AnnotationFile, val: AnnotationFile) -> Iterator[Finding]:
    """Report validation files that equal a training file, with any name; only files of equal size are read."""
    of_train: dict[int, list[ImageEntry]] = {}
    for image in train.images:
        if not image.location.missing:
            of_train.setdefault(_file_size(image.path), []).append(image)
    digests: dict[Path, str] = {}
    for image in val.images:
        for other in of_train.get(_file_size(image.path), []) if not image.location.missing else []:
            if image.path == other.path or _digest(image.path, digests) == _digest(other.path, digests):
                yield leaked(val, image, other)
                break


def names(train: AnnotationFile, val: AnnotationFile) -> Iterator[Finding]:
    """Report images with the same name, folders included, but different content."""
    of_train = {_below_folder(train, image): image for image in train.images if not image.location.missing}
    for image in val.images:
        other = None if image.location.missing else of_train.get(_below_folder(val, image))
        if other is not None and not _same(image.path, other.path):
            yield Finding(
                "picture-leaked-name",
                f"{image.name} is in both parts, with different content",
                val.file,
                image.id,
                image.path,
            )


def _below_folder(part: AnnotationFile, image: ImageEntry) -> str:
    return portable(image.name) if part.folder is None else image.path.relative_to(part.folder).as_posix()


def leaked(val: AnnotationFile, image: ImageEntry, other: ImageEntry) -> Finding:
    """Build the finding of an image in both parts."""
    what = f"{image.name} is also the training image {other.id}, {other.path}"
    return Finding("picture-leaked", what, val.file, image.id, image.path)


def _same(first: Path, second: Path) -> bool:
    return first == second or (_file_size(first) == _file_size(second) and file_digest(first) == file_digest(second))


def _digest(path: Path, known: dict[Path, str]) -> str:
    if path not in known:
        known[path] = file_digest(path)
    return known[path]


def file_digest(path: Path) -> str:
    """Compute the SHA-256 of a file, in hexadecimal digits; those of its pages (`stack.tif#2`) differ."""
    file, page = file_and_page(path)
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() + ("" if page is None else f"#{page}")


def _file_size(path: Path) -> int:
    return file_and_page(path)[0].stat().st_size


SPLIT_CHECKS = (compare_categories, groups, compare_files, names)

"""Checks of the records: ids, references and categories of one part, and the same image or group in both parts."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from htc.data.images import picture_size
from htc.doctor.findings import Edit, Finding
from htc.doctor.outline import short
from htc.doctor.part import Part, Picture, is_id
from htc.errors import DataError

MOSTLY = 0.5
"""The share of the annotations that must belong to a picture for the others to be removed."""


def empty_lists(part: Part) -> Iterator[Finding]:
    """No pictures, no categories."""
    for name in ("images", "categories"):
        if not part.content[name]:
            yield Finding("list-empty", f"it has no {name}", part.file)


def image_records(part: Part) -> Iterator[Finding]:
    """Without id or file name, without size, ids that occur twice."""
    seen: dict[int | str, Any] = {}
    for position, record in enumerate(part.content["images"]):
        id = record.get("id") if isinstance(record, dict) else None
        if not isinstance(record, dict) or not is_id(id):
            yield Finding(
                "image-record", f"images[{position}] has the id {id!r}; it must be a whole number or a text", part.file
            )
        elif not isinstance(record.get("file_name"), str) or not record["file_name"]:
            yield Finding("image-record", f"it has the file_name {record.get('file_name')!r}", part.file, id)
        elif id in seen:
            same = record == seen[id]
            what = "its id occurs twice, " + (
                "in equal records" if same else f"for {seen[id]['file_name']} and {record['file_name']}"
            )
            edits = (Edit("images", position, None),) if same else ()
            yield Finding(
                "image-id-twice",
                what,
                part.file,
                id,
                part.path_of(record["file_name"]),
                edits=edits,
                fixed_by="the second record removed",
            )
        else:
            seen[id] = record
    yield from _sizes(part)


def _sizes(part: Part) -> Iterator[Finding]:
    for picture in part.pictures:
        if picture.size is not None:
            continue
        stated = f"its height is {picture.record.get('height')!r}, its width {picture.record.get('width')!r}"
        edits: tuple[Edit, ...] = ()
        try:
            height, width = picture_size(picture.path)
            edits = (Edit("images", picture.position, {"height": height, "width": width}),)
        except DataError:
            pass  # the picture has a finding of its own
        yield Finding(
            "image-size-missing",
            stated,
            part.file,
            picture.id,
            picture.path,
            edits=edits,
            fixed_by="the size of the picture written",
        )


def annotation_records(part: Part) -> Iterator[Finding]:
    """Without picture, without id, ids that occur twice."""
    records = part.content["annotations"]
    used = Counter(record["id"] for record in records if isinstance(record, dict) and is_id(record.get("id")))
    free = max((id for id in used if isinstance(id, int)), default=0) + 1
    seen: set[int | str] = set()
    # Where many belong to no picture, the images are what is wrong.
    removable = len(part.objects) > MOSTLY * len(records)
    for position, record in enumerate(records):
        if not isinstance(record, dict):
            edits = (Edit("annotations", position, None),)
            yield Finding(
                "annotation-record",
                f"annotations[{position}] is {short(record)}",
                part.file,
                edits=edits,
                fixed_by="removed",
            )
            continue
        id, image = record.get("id"), record.get("image_id")
        known = part.by_id.get(image) if is_id(image) else None
        place = _Place(
            part.file,
            image if is_id(image) else None,
            known.path if known else None,
            id if is_id(id) else f"[{position}]",
        )
        if known is None:
            edits = (Edit("annotations", position, None),) if removable else ()
            what = f"its image_id {image!r} is not among the images"
            yield Finding("annotation-without-image", what, *place, edits=edits, fixed_by="the annotation removed")
        elif not is_id(id):
            yield Finding(
                "annotation-id-missing",
                f"its id is {id!r}",
                *place,
                edits=_new_id(position, free),
                fixed_by="a new id given",
            )
            free += 1
        elif id in seen:
            what = f"its id occurs {used[id]} times"
            yield Finding("annotation-id-twice", what, *place, edits=_new_id(position, free), fixed_by="a new id given")
            free += 1
        else:
            seen.add(id)


class _Place(NamedTuple):
    file: Path
    image: int | str | None
    picture: Path | None
    annotation: int | str


def _new_id(position: int, id: int) -> tuple[Edit, ...]:
    return (Edit("annotations", position, {"id": id}),)


def check_categories(part: Part) -> Iterator[Finding]:
    """Categories without id or name, ids and names that occur twice, names that look alike."""
    ids: dict[int, Any] = {}
    names: dict[str, str] = {}
    for position, record in enumerate(part.content["categories"]):
        id, name = (record.get("id"), record.get("name")) if isinstance(record, dict) else (None, None)
        if not isinstance(id, int) or isinstance(id, bool) or not isinstance(name, str) or not name:
            yield Finding(
                "category-record", f"categories[{position}] has the id {id!r} and the name {name!r}", part.file
            )
            continue
        plain = " ".join(name.lower().replace("_", " ").split())
        if id in ids:
            same = ids[id] == record
            edits = (Edit("categories", position, None),) if same else ()
            what = f"category id {id} occurs twice, for {ids[id]['name']!r} and {name!r}"
            yield Finding(
                "category-id-twice", what, part.file, edits=edits, fixed_by="the second of two equal records removed"
            )
        elif name in names.values():
            yield Finding("category-name-twice", f"the name {name!r} occurs twice", part.file)
        elif plain in names:
            yield Finding("category-names-alike", f"{names[plain]!r} and {name!r}", part.file)
        ids.setdefault(id, record)
        names.setdefault(plain, name)


def labels(part: Part) -> Iterator[Finding]:
    """Objects of no known category."""
    known = set(part.classes)
    used = {id for one in part.objects if isinstance(id := one.record.get("category_id"), int)}
    shifted = next((by for by in (1, -1) if used - known and {id + by for id in used} <= known), None)
    hint = (
        f"; all ids would fit if they were {'one larger' if shifted == 1 else 'one smaller'}"
        if shifted is not None
        else ""
    )
    for one in part.objects:
        category = one.record.get("category_id")
        if not isinstance(category, int) or isinstance(category, bool) or category not in known:
            what = f"its category_id {category!r} is not among the {len(known)} categories ({_span(known)}){hint}"
            yield part.finding(one, "category-unknown", what)


def _span(ids: set[int]) -> str:
    return f"{min(ids)} to {max(ids)}" if ids else "none"


RECORD_CHECKS = (empty_lists, image_records, annotation_records, check_categories, labels)


def compare_categories(train: Part, val: Part) -> Iterator[Finding]:
    """Classes go by name: one that only the validation file has cannot be found."""
    ids = {name: id for id, name in train.classes.items()}
    for id, name in val.classes.items():
        if name not in ids:
            yield Finding("categories-differ", f"{name!r} (id {id}) is not in {train.file.name}", val.file)
        elif ids[name] != id:
            yield Finding(
                "category-ids-differ", f"{name!r} has id {id} here and {ids[name]} in {train.file.name}", val.file
            )


def groups(train: Part, val: Part) -> Iterator[Finding]:
    """Values of `group` that records of both parts have."""
    ours = {
        picture.record["group"]: picture
        for picture in train.pictures
        if isinstance(picture.record.get("group"), int | str)
    }
    for picture in val.pictures:
        group = picture.record.get("group")
        if isinstance(group, int | str) and group in ours:
            what = f"{picture.name} has the group {group!r}, as {ours[group].name} in training"
            yield Finding("group-leaked", what, val.file, picture.id, picture.path)


def compare_files(train: Part, val: Part) -> Iterator[Finding]:
    """Files of the validation part that are training pictures, whatever their name; only files of equal length are
    read.
    """
    ours: dict[int, list[Picture]] = {}
    for picture in train.pictures:
        if picture.path.is_file():
            ours.setdefault(picture.path.stat().st_size, []).append(picture)
    digests: dict[Path, str] = {}
    for picture in val.pictures:
        for other in ours.get(picture.path.stat().st_size, []) if picture.path.is_file() else []:
            if picture.path == other.path or _digest(picture.path, digests) == _digest(other.path, digests):
                yield leaked(val, picture, other)
                break


def names(train: Part, val: Part) -> Iterator[Finding]:
    """Pictures of one name with different content."""
    ours = {Path(picture.name).name: picture for picture in train.pictures}
    for picture in val.pictures:
        other = ours.get(Path(picture.name).name)
        if (
            other is not None
            and picture.path.is_file()
            and other.path.is_file()
            and not _same(picture.path, other.path)
        ):
            yield Finding(
                "picture-leaked-name",
                f"{picture.name} is in both parts, with different content",
                val.file,
                picture.id,
                picture.path,
            )


def leaked(val: Part, picture: Picture, other: Picture) -> Finding:
    """One picture in both parts."""
    what = f"{picture.name} is {other.path}, image {other.id} of training"
    return Finding("picture-leaked", what, val.file, picture.id, picture.path)


def _same(first: Path, second: Path) -> bool:
    return first == second or (
        first.stat().st_size == second.stat().st_size and file_digest(first) == file_digest(second)
    )


def _digest(path: Path, known: dict[Path, str]) -> str:
    if path not in known:
        known[path] = file_digest(path)
    return known[path]


def file_digest(path: Path) -> str:
    """Of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


SPLIT_CHECKS = (compare_categories, groups, compare_files, names)

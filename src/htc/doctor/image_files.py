"""Picture files, from their headers alone: missing, unreadable, turned, of another size, listed twice."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from htc.data.formats.converted import PICTURE_ENDINGS
from htc.data.images import TURNED, picture_header
from htc.doctor.finding import Edit, Finding
from htc.doctor.part import Part, Picture
from htc.errors import DataError

MOSTLY = 0.5
"""If more of the pictures are missing, the folder is the wrong one, and no record is removed."""


def files(part: Part) -> Iterator[Finding]:
    """What is wrong with the file of each record."""
    missing = [picture for picture in part.pictures if not picture.path.is_file()]
    removable = len(missing) <= MOSTLY * len(part.pictures)
    lower = {name.lower(): name for name in part.present}
    for picture in missing:
        yield _missing(part, picture, lower.get(Path(picture.name).name.lower()), removable)
    for picture in part.pictures:
        if picture.path.is_file():
            yield from _header(picture)


def _missing(part: Part, picture: Picture, alike: str | None, removable: bool) -> Finding:
    what = f"{picture.name} is not in {part.folder}"
    if alike is not None:
        edits = (Edit("images", picture.position, {"file_name": alike}),)
        return Finding(
            "picture-missing",
            f"{what}, but {alike} is",
            part.file,
            picture.id,
            edits=edits,
            fixed_by=f"file_name {alike} written",
        )
    # Its objects belong to no picture then, and are removed for that.
    edits = (Edit("images", picture.position, None),) if removable else ()
    return Finding("picture-missing", what, part.file, picture.id, edits=edits, fixed_by="record and objects removed")


def _header(picture: Picture) -> Iterator[Finding]:
    try:
        height, width, orientation = picture_header(picture.path)
    except DataError as error:
        yield Finding(
            "picture-unreadable",
            str(error).removeprefix(f"{picture.path} ").partition(";")[0],
            picture.path,
            picture.id,
            picture.path,
        )
        return
    if picture.size is None:
        return
    stated = f"{picture.size[1]}x{picture.size[0]}"
    upright = (width, height) if orientation in TURNED else (height, width)
    if upright != picture.size:
        if orientation in TURNED and (height, width) == picture.size:
            what = f"its EXIF orientation {orientation} shows it as {upright[1]}x{upright[0]}, its record says {stated}"
            yield Finding("picture-turned", what, picture.path, picture.id, picture.path)
        else:
            yield Finding(
                "picture-size",
                f"it is {upright[1]}x{upright[0]}, its record says {stated}",
                picture.path,
                picture.id,
                picture.path,
            )
    elif orientation in (2, 3, 4):
        yield Finding(
            "picture-orientation", f"its EXIF orientation is {orientation}", picture.path, picture.id, picture.path
        )


def listed_twice(part: Part) -> Iterator[Finding]:
    """One file in several records with different ids."""
    records: dict[Path, list[Picture]] = defaultdict(list)
    for picture in part.pictures:
        records[picture.path].append(picture)
    for path, several in records.items():
        first = several[0]
        for other in several[1:]:
            if other.id == first.id:
                continue  # a repeated id, which has its own finding
            moved = tuple(
                Edit("annotations", one.position, {"image_id": first.id}) for one in part.of_picture[other.position]
            )
            edits = (Edit("images", other.position, None), *moved) if other.size == first.size else ()
            what = f"{path.name} is image {first.id} and image {other.id}"
            yield Finding(
                "picture-listed-twice",
                what,
                part.file,
                other.id,
                path,
                edits=edits,
                fixed_by=f"objects moved to image {first.id}",
            )


def unlisted(part: Part) -> Iterator[Finding]:
    """Pictures of the folder that no record names."""
    listed = {picture.path.name for picture in part.pictures}
    others = sorted(
        name
        for name in part.present - listed
        if Path(name).suffix.lower() in PICTURE_ENDINGS and not name.startswith(".")
    )
    if others:
        yield Finding(
            "picture-unlisted",
            f"{len(others)} of {len(part.present)} files in {part.folder}, the first is {others[0]}",
            part.file,
        )


def without_objects(part: Part) -> Iterator[Finding]:
    """Pictures that no annotation belongs to."""
    empty = [
        picture for picture in part.pictures if not part.of_picture.get(picture.position) and picture.path.is_file()
    ]
    if empty:
        what = f"{len(empty)} of {len(part.pictures)} pictures, the first is {empty[0].name}"
        yield Finding("picture-empty", what, part.file, empty[0].id, empty[0].path)


CHECKS = (files, listed_twice, unlisted, without_objects)

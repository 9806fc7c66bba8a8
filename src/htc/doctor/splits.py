"""Training against validation part: categories, groups, and pictures of one name."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from htc.doctor.finding import Finding
from htc.doctor.part import Part, Picture


def categories(train: Part, val: Part) -> Iterator[Finding]:
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


def files(train: Part, val: Part) -> Iterator[Finding]:
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
    return first == second or (first.stat().st_size == second.stat().st_size and digest(first) == digest(second))


def _digest(path: Path, known: dict[Path, str]) -> str:
    if path not in known:
        known[path] = digest(path)
    return known[path]


def digest(path: Path) -> str:
    """Of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


CHECKS = (categories, groups, files, names)

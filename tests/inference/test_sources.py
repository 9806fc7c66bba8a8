"""Files, folders and globs as images with names and ids."""

from pathlib import Path

import pytest

from htc.data.image_headers import IMAGE_SUFFIXES
from htc.inference.sources import Failure, ImageFile, expand, image_ids


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (
        "a/2.jpg",
        "a/10.JPG",
        "a/notes.txt",
        "a/deep/x.png",
        "a/.hidden/y.png",
        "a/.z.png",
        "b/2.jpg",
        "b/odd.dat",
        "empty/readme.md",
        "[odd].png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*sources: str | Path) -> list[str]:
    files, failures = expand(sources)
    assert failures == []
    return [file.name for file in files]


def test_folder_to_the_bottom_in_natural_order(tree: Path) -> None:
    assert names("a") == ["2.jpg", "10.JPG", "deep/x.png"]
    assert names(tree / "a") == ["2.jpg", "10.JPG", "deep/x.png"]


def test_file_of_any_ending_and_one_that_is_missing(tree: Path) -> None:
    assert names("b/odd.dat", "[odd].png", "nowhere.jpg") == ["odd.dat", "[odd].png", "nowhere.jpg"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a/*.jpg", ["2.jpg"]),
        ("*/2.*", ["a/2.jpg", "b/2.jpg"]),
        ("**/*.png", ["[odd].png", "a/deep/x.png"]),
        ("./a/?.jpg", ["2.jpg"]),
        ("a/*", ["2.jpg", "10.JPG"]),
    ],
)
def test_patterns(tree: Path, pattern: str, expected: list[str]) -> None:
    assert names(pattern) == expected
    assert names(tree / pattern) == expected


def test_each_image_once(tree: Path) -> None:
    assert names("a", "a/2.jpg", tree / "a", "a/*.jpg") == ["2.jpg", "10.JPG", "deep/x.png"]


def test_equal_names_of_several_sources_are_told_apart(tree: Path) -> None:
    assert names("a", "b", "b/odd.dat") == ["a/2.jpg", "10.JPG", "deep/x.png", "b/2.jpg", "odd.dat"]


@pytest.mark.parametrize(("source", "kind"), [("empty", "folder"), ("c/*.png", "pattern")])
def test_nothing_found_is_a_failure_and_the_rest_stays(tree: Path, source: str, kind: str) -> None:
    files, failures = expand([source, "a/2.jpg"])
    assert [file.name for file in files] == ["2.jpg"]
    assert failures == [
        Failure(
            source,
            f"{source}: no images in this {kind}; supported suffixes: {', '.join(IMAGE_SUFFIXES)}",
        )
    ]


def test_no_sources() -> None:
    assert expand([]) == ([], [])
    assert image_ids([]) == []


def files(*paths: str) -> list[ImageFile]:
    return [ImageFile(Path("data", path), path) for path in paths]


def test_ids_by_annotation_then_by_digits_then_by_name() -> None:
    known = {"val/street.jpg": 17, "000000000009.jpg": "nine"}
    assert image_ids(files("val/street.jpg", "000000000009.jpg", "000000000139.jpg", "cat.jpg"), known) == [
        17,
        "nine",
        139,
        "cat.jpg",
    ]
    assert image_ids(files("street.jpg"), known) == [17]
    assert image_ids(files("0.png", "x1.png", "²1.png")) == [0, "x1.png", "²1.png"]


def test_ids_are_unique() -> None:
    assert image_ids(files("a/7.jpg", "b/007.jpg", "8.jpg")) == ["a/7.jpg", "b/007.jpg", 8]
    assert image_ids(files("5.jpg"), {"other.jpg": 5}) == ["5.jpg"]

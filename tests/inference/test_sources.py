"""Files, folders and globs as images with names and ids."""

from pathlib import Path

import pytest
from PIL import Image

from htc.data.image_headers import IMAGE_SUFFIXES
from htc.inference.sources import Failure, ImageFile, expand, image_ids, readable


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


def test_linked_folders_are_followed_and_circles_end(tree: Path) -> None:
    (tree / "c").mkdir()
    (tree / "c/linked").symlink_to("../a", target_is_directory=True)
    (tree / "c/up").symlink_to("..", target_is_directory=True)
    (tree / "c/self").symlink_to(".", target_is_directory=True)
    expected = ["linked/2.jpg", "linked/10.JPG", "linked/deep/x.png"]
    assert names("c") == expected
    assert names("c/**/*.*") == expected
    assert names("c/*/*.jpg") == expected[:1]


def test_what_a_folder_run_leaves_out_is_reported(tree: Path) -> None:
    (tree / "a/link.png").symlink_to("gone.png")
    for name in ("a/raw.CR2", "a/movie.mp4", "a/notes.md", "a/labels.json", "a/other"):
        (tree / name).touch()
    Image.new("RGB", (3, 3)).save(tree / "a/scan", "PNG")
    (tree / "a/named.png").mkdir()
    files, failures = expand(["a"])
    assert [file.name for file in files] == ["2.jpg", "10.JPG", "deep/x.png"]
    assert [failure.source for failure in failures] == ["a/link.png", "a/movie.mp4", "a/raw.CR2", "a/scan"]
    assert all(failure.message.startswith(f"{failure.source}: skipped: ") for failure in failures)
    assert expand(["a/*"])[1] == []


def test_urls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HTC_OFFLINE", raising=False)
    urls = ["https://a.org/x/17.jpg?size=2", "https://b.org/y/17.jpg", "https://c.org/", "https://d.org/%2e%2e"]
    files, failures = expand([*urls, urls[0], "s3://bucket/a.jpg"])
    assert [file.path for file in files] == urls
    assert [file.name for file in files] == ["a.org/17.jpg", "b.org/17.jpg", "c.org", "d.org"]
    assert [failure.source for failure in failures] == ["s3://bucket/a.jpg"]
    assert image_ids(files) == ["a.org/17.jpg", "b.org/17.jpg", "c.org", "d.org"]
    assert image_ids(files[1:]) == [17, "c.org", "d.org"]
    assert readable(files) == (files, [])
    monkeypatch.setenv("HTC_OFFLINE", "1")
    files, failures = expand(urls[:1])
    assert files == []
    assert urls[0] in failures[0].message


def test_pages_are_images_of_their_own(tree: Path) -> None:
    frames = [Image.new("RGB", (4, 4 + number)) for number in range(3)]
    frames[0].save("s.tif", save_all=True, append_images=frames[1:])
    frames[0].save("7.png")
    files, _ = expand(["s.tif", "7.png"])
    assert readable(files) == (files, [])
    assert readable(files, pages="first") == (files, [])
    pages, _ = readable(files, pages="all")
    assert [file.name for file in pages] == ["s.tif#1", "s.tif#2", "s.tif#3", "7.png"]
    assert image_ids(pages) == ["s.tif#1", "s.tif#2", "s.tif#3", 7]
    assert image_ids(pages, {"s.tif#2": 5}) == ["s.tif#1", 5, "s.tif#3", 7]
    second, failures = readable(files, pages=2)
    assert [file.name for file in second] == ["s.tif#2"]
    assert "7.png has no page 2" in failures[0].message
    assert [failure.message for failure in readable(files[:1], 20, "all")[1]] == [
        "s.tif#3 has 24 pixels (4x6); to accept it, add --max-pixels 24"
    ]


def test_names_of_annotations_in_other_spellings() -> None:
    known = {"cam1\\u\u0308.png": 4, "./b.png": 5}
    assert image_ids(files("cam1/\u00fc.png", "b.png"), known) == [4, 5]


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

"""What `predict` takes: every kind of image gives the same detections, everything else is refused with what to give."""

import io
import weakref
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from htc import Predictor
from htc.errors import ConfigError, DataError
from small_detector import seeded_detector, small_config


@pytest.fixture(scope="module")
def model() -> Predictor:
    config = small_config(1, inference={"score_threshold": 0.9})
    return Predictor(seeded_detector(config), config)


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


@pytest.fixture
def path(tmp_path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path / "a.png"


KINDS = {
    "text": lambda path, _: str(path),
    "path": lambda path, _: path,
    "open file": lambda path, _: path.open("rb"),
    "bytes in memory": lambda path, _: io.BytesIO(path.read_bytes()),
    "PIL": lambda _, pixels: Image.fromarray(pixels),
    "PIL, EXIF orientation": lambda _, pixels: turned(pixels),
    "array": lambda _, pixels: pixels,
    "array with alpha": lambda _, pixels: np.dstack([pixels, pixels[:, :, 0]]),
    "uint8 tensor": lambda _, pixels: torch.from_numpy(pixels).permute(2, 0, 1),
    "float tensor": lambda _, pixels: torch.from_numpy(pixels).permute(2, 0, 1).float() / 255,
}


def turned(pixels: np.ndarray) -> Image.Image:
    """Stored a quarter turn off, with the orientation that turns it upright."""
    image = Image.fromarray(np.rot90(pixels))
    image.getexif()[0x0112] = 6
    return image


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_detections(model: Predictor, path: Path, pixels: np.ndarray, kind: str) -> None:
    expected = model.predict(path, score_threshold=0.0)
    assert len(expected) > 0
    detections = model.predict(KINDS[kind](path, pixels), score_threshold=0.0)
    np.testing.assert_array_equal(detections.boxes, expected.boxes)
    np.testing.assert_array_equal(detections.scores, expected.scores)
    assert np.array_equal(np.asarray(detections.draw()), np.asarray(expected.draw(pixels)))


@pytest.mark.parametrize("as_tensor", [False, True])
def test_the_order_of_colors(model: Predictor, pixels: np.ndarray, as_tensor: bool) -> None:
    swapped = pixels[:, :, ::-1].copy()
    given = torch.from_numpy(swapped).permute(2, 0, 1) if as_tensor else swapped
    expected = model.predict(pixels, score_threshold=0.0)
    detections = model.predict(given, channels="bgr", score_threshold=0.0)
    np.testing.assert_array_equal(detections.scores, expected.scores)
    assert np.array_equal(np.asarray(detections.draw()), np.asarray(expected.draw()))
    assert not np.array_equal(model.predict(given, score_threshold=0.0).scores, expected.scores)
    with pytest.raises(ConfigError, match="channels"):
        model.predict(pixels, channels="grb")


@pytest.mark.parametrize(
    ("source", "named"),
    [
        (None, "NoneType"),
        (b"bytes", "bytes"),
        (3, "int"),
        (["a.png", "b.png"], "predict_many"),
        (("a.png",), "predict_many"),
        ({}, "dict"),
        (torch.zeros(2, 8, 8), "(2, 8, 8)"),
        (torch.zeros(1, 3, 8, 8), "(1, 3, 8, 8)"),
        (torch.zeros(3, 0, 8), "(3, 0, 8)"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), "int64"),
        (torch.full((3, 8, 8), 255.0), "255"),
        (torch.full((3, 8, 8), float("nan")), "nan"),
        (np.zeros((8, 8, 3)), "float64"),
        ("s3://bucket/a.jpg", "s3://bucket/a.jpg"),
    ],
)
def test_everything_else_is_refused_with_what_to_give(model: Predictor, source: object, named: str) -> None:
    with pytest.raises(DataError) as caught:
        model.predict(source)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("score_treshold", "score_threshold"),
        ("conf", "score_threshold"),
        ("max_det", "max_detections"),
        ("clases", "classes"),
        ("imgsz", "short_edge"),
    ],
)
def test_a_misspelt_option_names_the_nearest(model: Predictor, pixels: np.ndarray, misspelt: str, meant: str) -> None:
    for call, source in ((model.predict, pixels), (model.predict_many, [pixels])):
        with pytest.raises(TypeError, match=rf"{misspelt}.*{meant}"):
            call(source, **{misspelt: 0.3})
    with pytest.raises(TypeError, match="score_threshold, max_detections"):
        model.predict(pixels, zzz=1)


def test_the_threshold_may_be_the_second_argument_and_all_other_options_are_named(
    model: Predictor, pixels: np.ndarray
) -> None:
    expected = model.predict(pixels, score_threshold=0.0)
    assert model.predict(pixels, 0.0) == expected
    assert len(model.predict(pixels, 0.95)) < len(expected)
    assert len(next(model.predict_many([pixels], 0.0))) == len(expected)
    for call in (model.predict, model.predict_many):
        with pytest.raises(TypeError):
            call(pixels, 0.3, 5)


def test_the_threshold_of_the_call_decides(model: Predictor, pixels: np.ndarray) -> None:
    """The configuration's own is 0.9."""
    scores = model.predict(pixels, score_threshold=0.0).scores
    assert (scores < 0.9).any()


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_order_index_and_errors(
    model: Predictor, pixels: np.ndarray, path: Path, batch_size: int, workers: int
) -> None:
    sources = [pixels, "missing.png", path, np.ascontiguousarray(pixels[:40]), None, pixels]
    options = {"batch_size": batch_size, "workers": workers, "score_threshold": 0.0}
    results = list(model.predict_many(sources, on_error="skip", **options))
    assert [one.index for one in results] == [0, 2, 3, 5]
    assert [one.source for one in results] == [None, str(path), None, None]
    assert [one.size for one in results] == [(48, 64), (48, 64), (40, 64), (48, 64)]
    reported = []
    again = list(model.predict_many(sources, on_error=lambda *one: reported.append(one), **options))
    assert again == results
    assert [source for source, _ in reported] == ["missing.png", None]
    assert all(isinstance(error, DataError) for _, error in reported)
    with pytest.raises(DataError, match="missing"):
        list(model.predict_many(sources, **options))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_generator_without_end_is_read_as_results_are_asked_for(
    model: Predictor, pixels: np.ndarray, workers: int
) -> None:
    taken = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal taken
        while True:
            taken += 1
            yield pixels

    results = model.predict_many(endless(), workers=workers)
    assert [one.index for one in islice(results, 5)] == [0, 1, 2, 3, 4]
    assert taken <= 5 + 2 * workers
    results.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_images_that_are_done_are_not_kept(model: Predictor, pixels: np.ndarray, workers: int) -> None:
    alive: list[weakref.ref[np.ndarray]] = []

    def images() -> Iterator[np.ndarray]:
        for _ in range(60):
            image = pixels.copy()
            alive.append(weakref.ref(image))
            yield image

    most = 0
    for _ in model.predict_many(images(), workers=workers):
        most = max(most, sum(one() is not None for one in alive))
    assert len(alive) == 60
    assert most <= 2 + 2 * workers + 1


@pytest.mark.parametrize(
    "options", [{"batch_size": 0}, {"workers": -1}, {"on_error": "ignore"}, {"score_threshold": 1.5}]
)
def test_options_outside_their_range(model: Predictor, pixels: np.ndarray, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        list(model.predict_many([pixels], **options))


def test_one_image_is_not_several(model: Predictor, pixels: np.ndarray) -> None:
    for one in ("a.png", Path("a.png"), pixels):
        with pytest.raises(DataError, match="several images"):
            model.predict_many(one)

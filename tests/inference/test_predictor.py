"""Images to detections, with a stand-in for the network that says where it was told to look."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
import torch
from PIL import Image

from htc.errors import ConfigError, DataError
from htc.inference.predictor import Predictor
from htc.model.postprocess import Limits
from htc.ops import onednn
from htc.results import Detections
from small_detector import seeded_detector, small_config
from stand_in_detector import Corners, config


def random_image(height: int, width: int, value: int = 100) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def test_boxes_come_back_in_original_pixels_each_axis_by_its_own_scale() -> None:
    found = Predictor(Corners(), config()).predict(random_image(101, 333))
    assert found.boxes.dtype == np.float32
    np.testing.assert_allclose(found.boxes, [[0, 0, 166.5, 101], [0, 0, 333, 101]], atol=1e-4)
    np.testing.assert_allclose(found.scores, [0.9, 0.6])
    assert found.labels.tolist() == [1, 0]
    assert found.class_names == ("dog", "cat")
    assert found.category_ids.tolist() == [3, 7]
    assert found.size == (101, 333)
    assert found.masks.bitmaps()[0].mean() == pytest.approx(0.5, rel=0.005)


def test_network_input_is_resized_normalized_and_padded() -> None:
    detector = Corners()
    Predictor(detector, config()).predict(random_image(30, 40, 200))
    (images,) = detector.images
    assert images.shape == (1, 3, 64, 96)
    assert images.is_contiguous(memory_format=torch.channels_last)
    mean, std = torch.tensor(config().input.mean), torch.tensor(config().input.std)
    torch.testing.assert_close(images[0, :, 10, 10], (200 - mean) / std)
    assert images[0, :, :, 85:].count_nonzero() == 0  # 40 x 64 / 30 = 85 columns


@pytest.mark.parametrize(
    ("edges", "shape"),
    [
        ({"short_edge": 32}, (32, 64)),
        ({"long_edge": 64}, (32, 64)),
        ({"short_edge": 320, "long_edge": 448}, (224, 448)),
    ],
)
def test_edges_of_one_call(edges: dict[str, int], shape: tuple[int, int]) -> None:
    detector = Corners()
    Predictor(detector, config()).predict(random_image(100, 200), **edges)
    assert detector.batches == [(1, 3, *shape)]


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (3000, 2)])
def test_extreme_shapes(size: tuple[int, int]) -> None:
    found = Predictor(Corners(), config()).predict(random_image(*size))
    assert found.boxes.max() <= max(size)
    assert [one["size"] for one in found.masks.rle()] == [list(size)] * 2


def test_thresholds_classes_and_count() -> None:
    predictor = Predictor(Corners((True, True, True, True)), config())
    assert len(predictor.predict(random_image(9, 9), score_threshold=0.0)) == 4
    assert len(predictor.predict(random_image(9, 9), score_threshold=0.7)) == 2
    assert predictor.predict(random_image(9, 9), score_threshold=0.0, classes=["dog"]).class_names == ("dog", "dog")
    assert predictor.predict(random_image(9, 9), score_threshold=0.0, classes="dog").class_names == ("dog", "dog")
    assert predictor.predict(random_image(9, 9), score_threshold=0.0, max_detections=1).class_names == ("dog",)
    assert len(predictor.predict(random_image(9, 9), score_threshold=0.0, classes=[])) == 0


def test_what_a_call_asks_for_reaches_the_detector() -> None:
    """Before masks are computed, and in the model's own labels."""
    detector = Corners()
    Predictor(detector, config()).predict(
        random_image(9, 9), score_threshold=0.25, classes=["bird", "cat"], max_detections=3
    )
    Predictor(detector, config()).predict(random_image(9, 9))
    assert detector.limits == [Limits(0.25, (0, 2), 3), Limits(0.5, None, 4)]


def test_nothing_found() -> None:
    found = Predictor(Corners((False,) * 4), config()).predict(random_image(20, 30))
    assert len(found) == 0
    assert found.boxes.shape == (0, 4)
    assert found.masks.rle() == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score_threshold": 1.5}, "score_threshold"),
        ({"score_threshold": -0.1}, "score_threshold"),
        ({"max_detections": 0}, "max_detections"),
        ({"max_detections": 5}, "inference.max_detections"),
        ({"short_edge": 0}, "short_edge"),
        ({"short_edge": 9, "long_edge": 8}, "swap"),
        ({"classes": ["brid"]}, "did you mean bird"),
    ],
)
def test_options_outside_their_range(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Predictor(Corners(), config()).predict(random_image(9, 9), **options)  # type: ignore[arg-type]


def test_a_mask_threshold_of_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match="mask_threshold"):
        Predictor(Corners(), config(mask_threshold=0.0))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 16])
def test_order_is_kept_and_batches_hold_one_shape(batch_size: int) -> None:
    sizes = [(30, 40), (40, 30), (31, 41), (60, 60), (30, 40), (40, 30), (30, 40)]
    detector = Corners()
    found = list(
        Predictor(detector, config()).predict_many([random_image(*size) for size in sizes], batch_size=batch_size)
    )
    assert [one.size for one in found] == sizes
    assert sum(shape[0] for shape in detector.batches) == len(sizes)
    assert max(shape[0] for shape in detector.batches) == min(batch_size, 4)


def test_sources_are_read_as_results_are_asked_for() -> None:
    read = []

    def sources():
        for number in range(100):
            read.append(number)
            yield random_image(8, 8)

    results = Predictor(Corners(), config()).predict_many(sources())
    assert read == []
    next(results)
    assert read == [0]


def test_files_images_and_arrays(tmp_path: Path) -> None:
    image = Image.fromarray(random_image(20, 30))
    image.save(tmp_path / "one.png")
    found = list(
        Predictor(Corners(), config()).predict_many(
            [tmp_path / "one.png", str(tmp_path / "one.png"), image, random_image(20, 30)]
        )
    )
    assert [one.size for one in found] == [(20, 30)] * 4
    assert [one.source for one in found] == [str(tmp_path / "one.png")] * 2 + [None] * 2


def test_an_unreadable_file_is_reported_and_the_rest_done(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    reported: list[str] = []
    predictor = Predictor(Corners(), config())
    found = list(
        predictor.predict_many(
            [random_image(8, 8), bad, random_image(9, 9)],
            batch_size=2,
            on_error=lambda source, _: reported.append(str(source)),
        )
    )
    assert [one.size for one in found] == [(8, 8), (9, 9)]
    assert reported == [str(bad)]
    with pytest.raises(DataError, match=r"bad\.jpg"):
        predictor.predict(bad)
    Image.fromarray(random_image(8, 8)).save(tmp_path / "eight.png")
    with pytest.raises(DataError, match="max_pixels"):
        predictor.predict(tmp_path / "eight.png", max_pixels=63)


def wait_for(*barriers: Barrier) -> Callable[..., None]:
    """A hook that passes the barriers in turn."""

    def hook(*_: object) -> None:
        for barrier in barriers:
            barrier.wait(60)

    return hook


def test_predictors_in_two_threads_predict_what_each_predicts_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first begins, the second begins, the first ends while the second is halfway: the order in which a shared
    setting that each restores by itself would change under the second, and stay changed.
    """
    monkeypatch.setattr(onednn, "_is_exact", lambda: True)
    settings = small_config(semantic={}, inference={"score_threshold": 0.0})
    detectors = [seeded_detector(settings, seed) for seed in (0, 1)]
    first, second = (Predictor(detector, settings) for detector in detectors)
    image = np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)
    alone = [predictor.predict(image, score_threshold=0.0) for predictor in (first, second)]
    before = torch.backends.mkldnn.matmul.fp32_precision  # type: ignore[attr-defined]
    first_begun, second_halfway, first_ended = (Barrier(2) for _ in range(3))
    detectors[0].backbone.register_forward_pre_hook(wait_for(first_begun, second_halfway))
    detectors[1].backbone.register_forward_pre_hook(wait_for(second_halfway, first_ended))

    def run_first() -> Detections:
        detections = first.predict(image, score_threshold=0.0)
        first_ended.wait(60)
        return detections

    def run_second() -> Detections:
        first_begun.wait(60)
        return second.predict(image, score_threshold=0.0)

    with ThreadPoolExecutor(2) as threads:
        running = [threads.submit(run) for run in (run_first, run_second)]
        together = [one.result() for one in running]
    assert all(len(one) for one in alone)
    for one, other in zip(together, alone, strict=True):
        assert np.array_equal(one.boxes, other.boxes)
        assert np.array_equal(one.scores, other.scores)
        assert np.array_equal(one.masks.probabilities, other.masks.probabilities)
    assert torch.backends.mkldnn.matmul.fp32_precision == before  # type: ignore[attr-defined]

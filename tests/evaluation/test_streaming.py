"""Evaluating keeps of an image what is written of it, run lengths, and nothing else."""

import gc
import json
import tracemalloc
import weakref

import numpy as np
import pytest
from PIL import Image

from htc.data.coco import read_coco
from htc.evaluation.run import stream_results
from htc.inference.predictor import Predictor
from htc.model.postprocess import NO_LIMITS
from stand_in_detector import CLASSES, Corners, config

SIDE = 800
IMAGE = SIDE * SIDE * 3
"""Bytes of one decoded image; four dense masks have as many and a third more."""


class Forgetful(Corners):
    """The stand-in network without its memory of what it saw."""

    def forward(self, images, sizes, limits=NO_LIMITS):
        found = super().forward(images, sizes, limits)
        self.images.clear()
        return found


@pytest.fixture
def dataset(tmp_path):
    def make(count):
        Image.fromarray(np.zeros((SIDE, SIDE, 3), np.uint8)).save(tmp_path / "same.png")
        images = [{"id": number, "file_name": "same.png", "height": SIDE, "width": SIDE} for number in range(count)]
        categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)]
        (tmp_path / "pictures.json").write_text(
            json.dumps({"images": images, "annotations": [], "categories": categories})
        )
        return read_coco(tmp_path / "pictures.json", tmp_path)

    return make


def truth():
    return {
        "annotations": [],
        "categories": [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)],
    }


def measured(data):
    """Bytes in use at the peak and at the end of a run, beyond its beginning, and the number of results that are
    kept.
    """
    gc.collect()
    tracemalloc.start()
    kept = list(stream_results(Predictor(Forgetful(), config()), data, truth(), 4))
    used, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak, used, kept


def test_memory_does_not_grow_with_the_images(dataset):
    measured(dataset(2))
    few_peak, _, few = measured(dataset(4))
    many_peak, many_used, many = measured(dataset(24))
    assert len(many) == 6 * len(few) == 24 * 3
    # Twenty images more, each of 1.9 MB, but no more than their results: well under 10 kB each.
    assert many_peak - few_peak < 20 * 10_000 < IMAGE
    assert many_used < 24 * 10_000


def test_results_written_as_they_come_leave_nothing(dataset, monkeypatch):
    seen = []

    predictor = Predictor(Forgetful(), config())
    detect = predictor.detect

    def watched(*arguments, **options):
        found = detect(*arguments, **options)
        seen.extend(weakref.ref(one) for one in found)
        return found

    monkeypatch.setattr(predictor, "detect", watched)
    for count, _ in enumerate(stream_results(predictor, dataset(4), truth(), 4)):
        gc.collect()
        assert sum(reference() is not None for reference in seen) <= 2, count
    assert len(seen) == 4

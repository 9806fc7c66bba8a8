"""Files that take an image as it is: the preparation in the graph is OpenCV's and ours, bit for bit."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import htc
from exporting.conftest import Exported
from exporting.test_reader import assert_same, read
from htc.config import Input
from htc.data.transforms import ResizedInput
from htc.errors import ConfigError
from htc.exporting.certificate import compare_detections
from htc.exporting.raw_images import preparation
from htc.inference.load import load

SHAPES = [(97, 131), (480, 640), (1, 1), (31, 300), (700, 233), (256, 256), (512, 512), (1, 40), (333, 517)]
NUMBERS = np.random.default_rng(5)


def image(height: int, width: int) -> np.ndarray:
    return NUMBERS.integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(
    "settings",
    [
        Input(),
        Input(short_edge=96, long_edge=160),
        Input(short_edge=256, long_edge=256),
        Input(max_scale=1.0, padding="edge", mean=(0.0, 1.0, 2.0), std=(3.0, 4.0, 5.0)),
        Input(short_edge=300, long_edge=400, max_scale=1.37, divisor=64),
    ],
    ids=lambda one: f"{one.short_edge}-{one.max_scale}",
)
def test_the_graph_prepares_images_as_the_predictor(settings: Input) -> None:
    import onnx
    import onnxruntime

    model = onnx.parser.parse_model(preparation(settings, None))
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    ours = ResizedInput(settings)
    for shape in SHAPES:
        pixels = image(*shape)
        expected = ours.batch([ours.image(pixels)])
        found, sizes, _, _ = session.run(None, {"image": pixels})
        assert sizes.tolist() == expected.sizes.tolist()
        np.testing.assert_array_equal(found, expected.images.numpy())


def test_the_graph_pads_to_a_given_size() -> None:
    import onnx
    import onnxruntime

    model = onnx.parser.parse_model(preparation(Input(short_edge=96, long_edge=160), (160, 192)))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    found, sizes, factors, limits = session.run(None, {"image": image(90, 120)})
    assert found.shape == (1, 3, 160, 192)
    assert sizes.tolist() == [[96, 128]]
    assert factors.tolist() == [0.9375] * 4
    assert limits.tolist() == [120, 90, 120, 90]


@pytest.fixture(scope="module", params=["model.onnx", "model.xml"])
def file(request: pytest.FixtureRequest, exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("raw") / request.param
    with exported.as_translation():
        assert htc.export(exported.model, target, raw_images=True, progress=False).passed
    return target


@pytest.mark.parametrize("shape", SHAPES[:4])
def test_a_file_predicts_as_its_model(exported: Exported, file: Path, shape: tuple[int, int]) -> None:
    model, other, pixels = load(exported.model, device="cpu"), load(file, device="cpu"), image(*shape)
    for options in ({"score_threshold": 0.0}, {"score_threshold": 0.3, "classes": ["dog", "bird"]}):
        expected, found = model.predict(pixels, **options), other.predict(pixels, **options)
        compared = compare_detections(expected, found, 1.0)
        assert compared["differing"] == 0
        assert compared["matched"] == compared["expected"] == compared["found"]
    assert [len(one) for one in other.predict_many([pixels, pixels], batch_size=2, score_threshold=0.0)] == [10, 10]


def test_the_reader_takes_it(exported: Exported, file: Path, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(image(120, 150)).save(path)
    found, _ = read(file, path, tmp_path / "found.npz", "--score-threshold", "0.2")
    assert_same(found, load(exported.model, device="cpu").predict(path, score_threshold=0.2))


def test_its_edges_are_fixed(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"input\.short_edge is fixed"):
        load(file, input={"short_edge": 64})
    with pytest.raises(ConfigError, match="resizes its images itself"):
        load(file).predict(image(90, 90), short_edge=64)
    with pytest.raises(ConfigError, match="one image a call"):
        htc.export("htc_r18_small", "other.onnx", raw_images=True, batch=2)


def test_a_differing_part_is_named(exported: Exported, tmp_path: Path) -> None:
    other = load(exported.model, device="cpu")
    parameter = dict(other.detector.named_parameters())["rpn.deltas.weight"]
    parameter.data = parameter.data * 1.5
    with exported.as_translation(), pytest.raises(htc.ExportError, match="first part that differs is RPN"):
        htc.export(other, tmp_path / "other.onnx", raw_images=True, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_the_certificate_has_the_networks_input(exported: Exported, file: Path) -> None:
    certificate = json.loads(file.with_name(f"{file.name}.json").read_text())
    assert {tuple(one["input_size"]) for one in certificate["images"]} == {(96, 96), (96, 128)}

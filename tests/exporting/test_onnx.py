"""A model as an ONNX file: the same predictions through the same Predictor, and a certificate beside it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import htc
from exporting.conftest import Exported
from htc.checkpoint.exported import exported_kind, read_description
from htc.cli.app import run
from htc.errors import CheckpointError, ConfigError, ExportError
from htc.exporting import export as exporting
from htc.exporting.certificate import EXACT, compare_detections
from htc.exporting.target import certificate_path, check_target
from htc.inference.load import load
from htc.inference.predictor import Predictor
from htc.inference.runtimes import INPUTS, OUTPUTS
from htc.model.detector import Detector
from small_detector import small_config

NUCLEI = Path(htc.__file__).parent / "demo" / "nuclei"
IMAGE = min((NUCLEI / "val").iterdir())


@pytest.fixture(scope="module")
def model(exported: Exported) -> Predictor:
    return load(exported.model, device="cpu")


@pytest.fixture(scope="module")
def file(exported: Exported) -> Predictor:
    return load(exported.onnx, device="cpu")


def images(count: int) -> list[np.ndarray]:
    """Images of several shapes, the smallest of one pixel."""
    numbers = np.random.default_rng(5)
    shapes = [(90, 140), (140, 90), (1, 1), (300, 31), (96, 96)]
    return [numbers.integers(0, 256, (*shapes[index % 5], 3), np.uint8) for index in range(count)]


def differences(expected: htc.Detections, found: htc.Detections) -> tuple[int, int]:
    """Detections that match within the tolerance of a certificate, and those that do not."""
    compared = compare_detections(expected, found, 1.0)
    return compared["matched"], compared["differing"]


def test_the_file_and_its_certificate_are_written_and_nothing_else(exported: Exported) -> None:
    assert sorted(path.name for path in exported.folder.iterdir()) == [
        "again.json",
        "model",
        "model.onnx",
        "model.onnx.json",
        "parts.onnx",
    ]
    certificate = json.loads(certificate_path(exported.onnx).read_text())
    assert certificate == json.loads((exported.folder / "again.json").read_text())
    assert certificate["passed"] is True
    totals = certificate["totals"]
    assert totals["expected"] == totals["matched"] > 20
    assert totals["differing"] == 0
    assert totals["scores"] < 1e-4
    assert totals["boxes"] < 1e-2
    assert totals["masks"] < 1e-3
    assert len({tuple(image["input_size"]) for image in certificate["images"]}) > 1
    assert certificate["runtime"].startswith("onnxruntime ")
    assert certificate["latency_ms"]["file"] > 0
    assert "40 of 40 matched" in exported.stdout
    assert "htc predict IMAGE --model" in exported.stderr


def test_an_exported_file_describes_itself(exported: Exported, model: Predictor) -> None:
    import onnxruntime

    assert exported_kind(exported.onnx) == "onnx"
    description = read_description(exported.onnx, "onnx")
    assert description.config == model.config
    assert isinstance(model.detector, Detector)
    assert description.weights_sha256 == exporting.hash_weights(model.detector)
    session = onnxruntime.InferenceSession(exported.onnx)
    assert [one.name for one in session.get_inputs()] == list(INPUTS)
    assert [one.name for one in session.get_outputs()] == list(OUTPUTS)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == ["cat", "dog", "bird"]
    assert json.loads(metadata["category_ids"]) == [1, 2, 3]
    assert json.loads(metadata["input"])["short_edge"] == 96


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"score_threshold": 0.0},
        {"score_threshold": 0.35},
        {"classes": ["dog"], "score_threshold": 0.01},
        {"max_detections": 3, "score_threshold": 0.01},
        {"short_edge": 64, "score_threshold": 0.01},
    ],
    ids=str,
)
def test_a_file_predicts_as_its_model(model: Predictor, file: Predictor, options: dict) -> None:
    total = 0
    for image in images(5):
        expected, found = model.predict(image, **options), file.predict(image, **options)
        matched, differing = differences(expected, found)
        assert differing == 0
        assert len(found) == len(expected) == matched
        assert found.class_names == expected.class_names
        total += matched
    assert total > 3


def test_batches_give_what_single_images_give(model: Predictor, file: Predictor) -> None:
    several = images(7)
    expected = list(model.predict_many(several, batch_size=3, score_threshold=0.05))
    found = list(file.predict_many(several, batch_size=3, score_threshold=0.05))
    assert [one.index for one in found] == list(range(7))
    assert all(differences(one, other)[1] == 0 for one, other in zip(expected, found, strict=True))


def test_no_network_is_built(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Detector, "__init__", lambda *_: pytest.fail("a Detector was built"))
    assert len(load(exported.onnx, device="cpu").predict(IMAGE, score_threshold=0.0)) == 10


def test_an_evaluation_gives_the_same_metrics(exported: Exported) -> None:
    data = {"annotations": NUCLEI / "annotations" / "instances_val.json", "images": NUCLEI / "val"}
    content = json.loads(data["annotations"].read_text())
    content["categories"][0]["name"] = "cat"
    keep = {image["id"] for image in content["images"][:3]}
    content["images"] = [image for image in content["images"] if image["id"] in keep]
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] in keep]
    data["annotations"] = exported.folder.parent / "three.json"
    data["annotations"].write_text(json.dumps(content))
    expected, found = (
        htc.evaluate(path, **data, device="cpu", progress=False) for path in (exported.model, exported.onnx)
    )
    assert found.box.ap == pytest.approx(expected.box.ap, abs=1e-6)
    assert found.mask.ar == pytest.approx(expected.mask.ar, abs=1e-3)


def test_the_commands_take_a_file(exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "results.json"
    words = ["--no-draw", "--json", str(target), "--score-threshold", "0", "--max-detections", "4", "--device", "cpu"]
    assert run(["predict", str(IMAGE), "--model", str(exported.onnx), *words]) == 0
    assert len(json.loads(target.read_text())) == 4
    assert run(["predict", str(IMAGE), "--model", str(exported.onnx), "--print-config"]) == 0
    assert "short_edge: 96" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda path: load(path, weights="other.pth"), "contains its network: remove weights"),
        (lambda path: load(path, cascade={"interleaved": False}), "cascade.interleaved is fixed in an exported file"),
        (lambda path: load(path, precision="bf16"), "precision is fixed"),
        (lambda path: load(path, inference={"max_detections": 11}), "at most 10; export the model again"),
        (lambda path: load(path).predict(IMAGE, semantic=True), "is an exported file: remove semantic"),
        (lambda path: load(path).save("folder"), "its weights cannot be saved"),
        (lambda path: load(path).to("cpu"), "runs on the device that it was opened for"),
        (lambda path: htc.ensemble([path], views="1:flip"), "exported file"),
        (lambda path: htc.export(load(path), "other.onnx"), "RuntimeDetector cannot be exported"),
    ],
)
def test_what_a_file_cannot_do_is_refused(exported: Exported, call, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        call(exported.onnx)


def test_settings_of_the_input_and_of_results_can_change(exported: Exported) -> None:
    changed = load(
        exported.onnx, device="cpu", precision="auto", inference={"max_detections": 3, "score_threshold": 0.0}
    )
    assert len(changed.predict(IMAGE, score_threshold=0.0)) == 3


def test_files_of_other_programs_are_refused(exported: Exported, tmp_path: Path) -> None:
    import onnx

    foreign = onnx.load(exported.onnx)
    del foreign.metadata_props[:]
    onnx.save(foreign, tmp_path / "foreign.onnx")
    with pytest.raises(CheckpointError, match="was not written by `htc export`"):
        load(tmp_path / "foreign.onnx")
    content = exported.onnx.read_bytes()
    (tmp_path / "cut.onnx").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="damaged or incomplete"):
        load(tmp_path / "cut.onnx")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("model.trt", {}, "the suffix of the file is the format"),
        ("model.onnx", {"batch": 0}, "batch is 0"),
        ("model.onnx", {"size": (100, 128)}, "multiples of 32"),
    ],
)
def test_a_wrong_target_is_refused(tmp_path: Path, name: str, options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_target(tmp_path / name, **options)


def test_nothing_is_overwritten(exported: Exported) -> None:
    with pytest.raises(htc.OutputError, match="exists already"):
        htc.export(exported.model, exported.onnx)


class TestADifferingFile:
    """The file of the fixture, exported as that of a model with other weights."""

    @pytest.fixture(autouse=True)
    def written(self, exported: Exported) -> Iterator[None]:
        with exported.as_translation():
            yield

    def test_the_model_itself_passes(self, exported: Exported, tmp_path: Path) -> None:
        assert htc.export(exported.model, tmp_path / "same.onnx", progress=False).passed
        assert {path.name for path in tmp_path.iterdir()} == {"same.onnx", "same.onnx.json"}

    @pytest.mark.parametrize(
        ("weights", "part"),
        [
            ("backbone.layer1.0.conv1.weight", "trunk"),
            ("rpn.deltas.weight", "RPN"),
            ("roi.box_heads.1.classify.weight", "refine"),
            ("roi.mask_heads.0.logits.weight", "select or segment"),
        ],
    )
    def test_the_first_differing_part_is_named_and_no_file_is_left(
        self, exported: Exported, tmp_path: Path, weights: str, part: str
    ) -> None:
        other = load(exported.model, device="cpu")
        parameter = dict(other.detector.named_parameters())[weights]
        parameter.data = parameter.data * 1.5
        with pytest.raises(ExportError, match=part) as caught:
            htc.export(other, tmp_path / "other.onnx", progress=False)
        assert "matched" in str(caught.value)
        assert list(tmp_path.iterdir()) == []


class TestComparison:
    """Detections that differ in one way."""

    def both(self, model: Predictor) -> tuple[htc.Detections, htc.Detections]:
        return tuple(model.predict(IMAGE, score_threshold=0.0) for _ in range(2))  # type: ignore[return-value]

    def test_equal_detections_agree(self, model: Predictor) -> None:
        one, other = self.both(model)
        compared = compare_detections(one, other, 1.0)
        assert compared["matched"] == compared["expected"] == len(one) == 10
        assert compared["differing"] == compared["scores"] == compared["boxes"] == compared["masks"] == 0

    @pytest.mark.parametrize("name", ["scores", "boxes", "masks"])
    def test_a_difference_beyond_the_tolerance_counts(self, model: Predictor, name: str) -> None:
        one, other = self.both(model)
        values = other.masks.probabilities if name == "masks" else getattr(other, name)
        values[2] += 1.5 * getattr(EXACT, name)
        compared = compare_detections(one, other, 1.0)
        assert compared["differing"] == 1
        assert compared[name] == pytest.approx(1.5 * getattr(EXACT, name), rel=1e-2)

    def test_a_missing_detection_counts_unless_it_is_the_last(self, model: Predictor) -> None:
        one, other = self.both(model)
        assert compare_detections(one, other[1:], 1.0)["differing"] == 1
        assert compare_detections(one, other[:-1], 1.0)["differing"] == 1
        assert compare_detections(one, other[:-1], 1.0, capacity=10)["differing"] == 0

    def test_a_detection_of_another_class_is_no_match(self, model: Predictor) -> None:
        one, other = self.both(model)
        other.labels[0] += 1
        assert compare_detections(one, other, 1.0)["differing"] == 2

    @pytest.mark.parametrize("count", [0, 1])
    def test_images_without_detections(self, model: Predictor, count: int) -> None:
        one, other = self.both(model)
        assert compare_detections(one[:0], other[:count], 1.0)["differing"] == count
        assert compare_detections(one[:count], other[:0], 1.0)["differing"] == count


def test_a_model_that_is_not_in_fp32_or_of_another_divisor_is_refused(exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="load it with device='cpu' and precision='fp32'"):
        htc.export(load(exported.model, device="cpu", precision="bf16"), tmp_path / "m.onnx", progress=False)
    config = small_config(1, input={"short_edge": 64, "long_edge": 96, "divisor": 16})
    with pytest.raises(ConfigError, match=r"set input\.divisor to 32"):
        htc.export(htc.Predictor(Detector(config), config), tmp_path / "m.onnx", progress=False)


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04", b"\x80\x02}", b'\x08\x12\x12\x00\x00\x00\x00\x00{"a"', b"\x08\x0a", b"<html><body>", b"{}"],
)
def test_other_files_are_no_exported_ones(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert exported_kind(tmp_path / "file") is None
    assert exported_kind(tmp_path) is exported_kind(tmp_path / "missing") is None

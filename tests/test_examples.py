"""The examples run on a few small images: the scripts with small settings, the notebook's cells one after the other."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import htc
from test_docs import TINY, small_coco

pytestmark = pytest.mark.slow
EXAMPLES = Path(__file__).parent.parent / "examples"
SMALL = {name: TINY[name] for name in ("input", "cascade", "rpn", "inference", "training")}


def load_script(name: str) -> Any:
    """The module of a script."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    small_coco(folder / "nuclei", {"train": 4, "val": 2})
    return folder / "nuclei"


@pytest.fixture(scope="module")
def compared(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `train_evaluate_compare.py`."""
    out = tmp_path_factory.mktemp("compared")
    config = out / "small.yaml"
    config.write_text(yaml.safe_dump(json.loads(json.dumps(SMALL))))
    load_script("train_evaluate_compare").main(
        ["--data", str(data), "--epochs", "1", "--out", str(out / "runs"), "--config", str(config)]
    )
    return out / "runs"


def test_train_evaluate_compare(compared: Path) -> None:
    assert htc.load(compared / "htc").config.semantic is not None
    plain = htc.load(compared / "cascade").config
    assert plain.semantic is None
    assert not plain.cascade.mask_flow
    assert (compared / "htc.json").is_file()


def test_ensemble_predict_folder(compared: Path, data: Path, tmp_path: Path) -> None:
    models = ["--model", str(compared / "htc"), "--model", str(compared / "cascade")]
    load_script("ensemble_predict_folder").main(
        [str(data / "val"), *models, "--out", str(tmp_path), "--device", "cpu", "--score-threshold", "0.001"]
    )
    assert len(list(tmp_path.glob("*.png"))) == 2
    assert {result["category_name"] for result in json.loads((tmp_path / "results.json").read_text())} == {"nucleus"}


def test_own_loop(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load_script("own_loop").main(
        ["--data", str(data), "--steps", "2", "--batch-size", "1", "--device", "cpu", "--out", str(tmp_path / "own")]
    )
    assert htc.load(tmp_path / "own").classes == ("nucleus",)
    printed = capsys.readouterr().out
    assert "step 2:" in printed
    assert "AP50" in printed


def test_notebook(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = json.loads((EXAMPLES / "nuclei.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for cell in cells:
        exec(compile("".join(cell["source"]), "nuclei.ipynb", "exec"), names)
        if "settings" in names and "result" not in names:
            names["settings"] = SMALL | {"epochs": 1, "batch_size": 2, "device": "cpu"}
        names["data"] = data
    assert names["result"].metrics is not None
    assert (tmp_path / "runs/notebook/pictures/best").is_dir()
    assert names["diagnostics"]["best_f1"]

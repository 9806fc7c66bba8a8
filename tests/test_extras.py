"""Without the extras: what a plain installation does, and how a missing extra is reported."""

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

import pytest

from htc import extras
from htc.errors import InstallationError
from htc.extras import EXTRAS, require

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OWN = PROJECT["name"]
INSTALLED_WITH = ("pytorch_lightning", "torchmetrics", "scipy", "pandas")
"""Modules that come with the extras' packages."""
HIDE = """
import json, sys
sys.modules.update(dict.fromkeys(json.loads(sys.argv[1])))  # importing any of these fails
"""
NAMES = f"""{HIDE}
import htc
from htc.cli.app import function_of
from htc.cli.commands import COMMANDS
assert None not in [getattr(htc, name) for name in htc.__all__]
assert None not in [function_of(name) for name in COMMANDS]
"""
PLAIN = (
    HIDE
    + """
from pathlib import Path
import htc
from htc.cli.app import run
from htc.model.detector import Detector
from htc.presets import preset

folder, images = Path(sys.argv[2]), Path(htc.__file__).parent / "demo" / "nuclei"
image, annotations = str(min((images / "val").iterdir())), str(images / "annotations" / "instances_val.json")
config = preset("htc_r18_small").replace(
    input={"short_edge": 64, "long_edge": 96, "max_scale": None},
    rpn={"proposals": 50},
    inference={"max_detections": 5},
)
htc.Predictor(Detector(config), config).save(folder / "model")
detections = htc.load(folder / "model", device="cpu").predict(image, score_threshold=0.0, max_detections=3)
detections.draw(), detections.save(folder / "drawn.png"), detections.masks.polygons(), detections.to_coco(image_id=1)
assert None not in [getattr(htc, name) for name in htc.__all__]
model, data = str(folder / "model"), str(images)

answers = {}
def python(name, call):
    try:
        call()
    except htc.InstallationError as error:
        answers["python " + name] = str(error)
def command(*arguments):
    sys.stderr.write(f"<{arguments[0]}>")
    answers[arguments[0]] = run(arguments)
python("train", lambda: htc.train(data, out=folder / "run"))
python("evaluate", lambda: htc.evaluate(model, data))
python("to_supervision", detections.to_supervision)
python("doctor", lambda: htc.doctor(data, html=folder / "page.html"))
command("predict", image, "--model", model, "--json", str(folder / "results.json"), "--out", str(folder / "out"))
command("models")
command("convert", model, str(folder / "converted"))
command("train", "--data", data, "--out", str(folder / "run"))
command("evaluate", model, "--data", data)
command("ablate", "--table", "2", "--data", data, "--out", str(folder / "ablation"))
command("demo", "--out", str(folder / "demo"))
command("doctor", data, "--html", str(folder / "page.html"))
answers["files"] = sorted(path.name for path in folder.iterdir())
(folder / "answers.json").write_text(json.dumps(answers))
"""
)


def distributions(extra: str) -> set[str]:
    """The names of the distributions of an extra in pyproject.toml, those of the extras it contains included."""
    names: set[str] = set()
    for requirement in PROJECT["optional-dependencies"][extra]:
        contained = re.fullmatch(rf"{OWN}\[(.+)\]", requirement)
        if contained is None:
            names.add(re.split(r"[<>=\[; ]", requirement)[0])
        else:
            names |= {name for other in contained[1].split(",") for name in distributions(other)}
    return names


def test_the_table_is_that_of_pyproject() -> None:
    assert {extra: set(packages.values()) for extra, packages in EXTRAS.items()} == {
        extra: distributions(extra) for extra in PROJECT["optional-dependencies"] if extra != "all"
    }
    assert distributions("all") == {name for packages in EXTRAS.values() for name in packages.values()}
    known = packages_distributions()
    for packages in EXTRAS.values():
        for module, name in packages.items():
            assert name in {one.lower().replace("_", "-") for one in known[module]}


def test_the_readmes_commands_install_all_extras() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    assert f"{OWN}[all]" in groups["dev"]


@pytest.mark.parametrize(
    ("missing", "text"),
    [
        (("lightning",), "needs lightning, which is not installed"),
        (("lightning", "jinja2"), "needs jinja2 and lightning, which are not installed"),
        (("faster_coco_eval", "lightning", "jinja2"), "needs faster-coco-eval, jinja2 and lightning, which are not"),
    ],
)
def test_the_message_names_what_is_missing(
    missing: tuple[str, ...], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name in missing else find_spec(name))
    with pytest.raises(InstallationError, match=text) as caught:
        require("train", "training")
    assert str(caught.value).endswith(": pip install 'hybrid-task-cascade[train]'")


def test_what_is_installed_or_not_needed_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for extra in EXTRAS:
        if extra != "heic" or find_spec("pillow_heif"):
            require(extra, "all")
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "alembic" else find_spec(name))
    require("mlflow", "a server", ("mlflow",))


def without_extras(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process in which no package of an extra can be imported."""
    hidden = json.dumps([*INSTALLED_WITH, *{module for packages in EXTRAS.values() for module in packages}])
    return subprocess.run([sys.executable, "-c", code, hidden, *arguments], capture_output=True, text=True, check=False)


def test_all_public_names_and_commands_are_there_without_extras() -> None:
    process = without_extras(NAMES)
    assert process.returncode == 0, process.stderr


@pytest.mark.slow
def test_a_plain_installation(tmp_path: Path) -> None:
    """Predicting, drawing, listing and converting work; everything else names its extra and leaves nothing behind."""
    process = without_extras(PLAIN, str(tmp_path))
    assert process.returncode == 0, process.stderr
    answers = json.loads((tmp_path / "answers.json").read_text())
    assert answers.pop("files") == ["converted", "drawn.png", "model", "out", "results.json"]
    assert [answers[name] for name in ("predict", "models", "convert")] == [0, 0, 0]
    said = dict(part.split(">", 1) for part in process.stderr.split("<")[1:] if ">" in part)
    for extra, names in {"train": ("train", "demo", "ablate"), "evaluate": ("evaluate", "doctor")}.items():
        for name in names:
            line = f"pip install 'hybrid-task-cascade[{extra}]'\n"
            assert said[name].startswith("htc: ")
            assert said[name].endswith(line)
            assert said[name].count("\n") == 1  # no traceback
            assert answers[name] == 2
    for name, extra in {
        "train": "train",
        "evaluate": "evaluate",
        "doctor": "evaluate",
        "to_supervision": "vis",
    }.items():
        assert answers[f"python {name}"].endswith(f"pip install 'hybrid-task-cascade[{extra}]'")

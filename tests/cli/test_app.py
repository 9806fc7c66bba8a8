"""Exit codes and messages: one message of a few lines that names the thing and the remedy, never a traceback."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import yaml

from cli.conftest import Result
from htc import __main__ as main_module
from htc.checkpoint.download import FetchError
from htc.cli import app
from htc.config import Config
from htc.presets import PRESETS, preset

Htc = Callable[..., Result]


def use(monkeypatch: pytest.MonkeyPatch, verb: Callable[..., object]) -> None:
    """That function in the place of its command."""
    monkeypatch.setattr(app, "function_of", lambda _name: verb)


@pytest.mark.parametrize("verb", ["demo", "models", "predict", "train", "evaluate", "convert", "benchmark"])
def test_every_verb_explains_itself(htc: Htc, verb: str) -> None:
    result = htc(verb, "--help")
    assert (result.code, result.err) == (0, "")
    assert f"htc {verb}" in result.out


def test_without_a_verb_there_is_help(htc: Htc) -> None:
    result = htc()
    assert result == htc("--help")
    assert (result.code, result.err) == (0, "")
    assert htc("--version").out.strip() == "0.1.0"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predikt"], "there is no command `predikt`; did you mean `htc predict`?"),
        (["--bogus"], "--bogus"),
        (["predict", "a.jpg", "--modle", "m"], "unknown option --modle; did you mean --model?"),
        (["predict", "a.jpg"], "--model is missing: name a preset"),
        (["predict", "--model", "htc_r50_fpn_1x_coco"], "SOURCE is missing"),
        (
            ["predict", "a.jpg", "--model", "htc_r50_fpn_2x_coco"],
            "there is no preset 'htc_r50_fpn_2x_coco'; did you mean htc_r50_fpn_1x_coco",
        ),
        (["predict", "a.jpg", "--model", "nothing.pth"], "nothing.pth: no such file"),
        (
            ["predict", "a.jpg", "--model", "htc_r50_fpn_1x_coco", "--weights", "no.pth"],
            "--weights no.pth: no such file",
        ),
        (["predict", "a.jpg", "--model", "htc_r50_fpn_1x_coco"], "a.jpg: no such file"),
        (
            ["predict", "a.jpg", "--model", "htc_r50_fpn_1x_coco", "--score-threshold", "1.5"],
            "Give a value from 0 to 1.",
        ),
        (["predict", "a.jpg", "--model", "htc_r50_fpn_1x_coco", "--score-threshold", "-1"], "--score-threshold"),
        (["predict", "a.jpg", "--model", "htc_r50_fpn_1x_coco", "--max-detections", "0"], "--max-detections"),
        (
            ["predict", "a.jpg", "--model", "htc_r50_fpn_1x_coco", "--device", "gpu"],
            "give auto, cpu, cuda, cuda:N, N (the same as cuda:N) or mps",
        ),
        (
            ["predict", "a.jpg", "--model", "htc_r50_fpn_1x_coco", "--short-edge", "9", "--long-edge", "8"],
            "--short-edge 9 is larger than --long-edge 8",
        ),
        (
            ["predict", "a.jpg", "--model", "htc_r50_fpn_1x_coco", "--cascade.mask-flwo", "1"],
            "did you mean cascade.mask_flow?",
        ),
        (
            ["predict", "a.jpg", "--model", "htc_r50_fpn_1x_coco", "--inference.nms_iou", "7"],
            "--inference.nms_iou: should be less than or equal to 1 (got 7)",
        ),
        (
            ["predict", "a.jpg", "--model", "htc_r50_fpn_1x_coco", "--config", "no.yaml"],
            "--config no.yaml: there is no such file",
        ),
        (["train", "--preset", "htc_r50"], "there is no preset 'htc_r50'"),
        (["train"], "nothing to train on"),
        (["train", "--data", "nowhere"], "nowhere: no such folder"),
        (["train", "--epochs", "0", "--data", "."], "--epochs"),
        (["evaluate", "--annotations", "a.json"], "COCO result file (--results FILE)"),
        (["evaluate", "htc_r50_fpn_1x_coco", "--annotations", "a.json"], "a.json"),
        (["convert", "no.pth", "out"], "no.pth: no such file"),
        (["models", "--cascade.interleaved", "false"], "`htc models` takes no settings"),
        (["models", "htc_r50"], "there is no preset 'htc_r50'"),
        (["benchmark", "--size", "big"], "--size big"),
        (["convert", "only-one"], "DST is missing: name the new folder"),
    ],
)
def test_a_bad_call_is_one_message(htc: Htc, arguments: Sequence[str], message: str, tmp_path: Path) -> None:
    result = htc(*arguments)
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("htc: ")
    assert message in result.err
    assert "Traceback" not in result.err
    assert len(result.err.splitlines()) <= 8
    assert list(tmp_path.iterdir()) == []  # nothing half-written


def test_all_faults_of_all_layers_come_at_once(htc: Htc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTC_RPN__SAMPLES", "many")
    (tmp_path / "own.yaml").write_text("inference: {nms_iou: 2}\n")
    result = htc("train", "--config", "own.yaml", "--cascade.samples", "-1")
    assert result.code == 2
    for part in ("own.yaml: inference.nms_iou: ", "HTC_RPN__SAMPLES: ", "--cascade.samples: "):
        assert part in result.err


def test_settings_reach_the_configuration(htc: Htc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTC_CASCADE__MASK_FLOW", "false")
    (tmp_path / "own.yaml").write_text("cascade: {mask_flow: true, interleaved: true}\ninput: {short_edge: 600}\n")
    result = htc(
        "train",
        "--preset",
        "htc_r50_fpn_20e_coco",
        "--config",
        "own.yaml",
        "--cascade.interleaved=false",
        "--lr",
        "0.01",
        "--print-config",
    )
    config = Config.model_validate(yaml.safe_load(result.out))
    assert result.code == 0
    assert (config.cascade.interleaved, config.cascade.mask_flow, config.input.short_edge, config.training.epochs) == (
        False,
        False,
        600,
        20,
    )
    assert config.training.optimizer.lr == 0.01


def test_models_are_listed_printed_and_described(htc: Htc, tmp_path: Path) -> None:
    listed = htc("models")
    assert all(name in listed.out for name in PRESETS)
    rows = json.loads(htc("models", "--json", "-").out)
    row = next(row for row in rows if row["name"] == "htc_r50_fpn_20e_coco")
    assert (row["box_ap"], row["mask_ap"]) == (43.3, 38.3)
    assert row["url"].endswith("htc_r50_fpn_20e_coco_20200319-fe28c577.pth")
    assert htc("models", "--json", "list.json").out == ""
    assert json.loads((tmp_path / "list.json").read_text()) == rows
    assert Config.model_validate(yaml.safe_load(htc("models", "htc_r18_small").out)) == preset("htc_r18_small")
    assert json.loads(htc("models", "--schema").out)["title"] == "Config"


def test_weights_that_cannot_be_fetched_are_not_the_callers_fault(htc: Htc, monkeypatch: pytest.MonkeyPatch) -> None:
    def models() -> int:
        raise FetchError("x: offline")

    use(monkeypatch, models)
    assert htc("models") == Result(1, "", "htc: x: offline\n")


def test_an_interruption_and_a_termination_have_their_codes(htc: Htc, monkeypatch: pytest.MonkeyPatch) -> None:
    def models() -> int:
        raise KeyboardInterrupt

    use(monkeypatch, models)
    assert htc("models") == Result(130, "", "htc: interrupted\n")

    def demo() -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("not terminated")

    use(monkeypatch, demo)
    before = signal.getsignal(signal.SIGTERM)
    assert htc("demo") == Result(143, "", "htc: terminated\n")
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_full_disk_is_a_message(htc: Htc, monkeypatch: pytest.MonkeyPatch) -> None:
    def models() -> int:
        raise OSError(28, "No space left on device", "found.json")

    use(monkeypatch, models)
    assert htc("models") == Result(
        2, "", "htc: found.json: the disk is full: free some space, or choose a path on another disk\n"
    )


def test_our_own_mistakes_keep_their_traceback(htc: Htc, monkeypatch: pytest.MonkeyPatch) -> None:
    def models() -> int:
        raise ZeroDivisionError

    use(monkeypatch, models)
    with pytest.raises(ZeroDivisionError):
        htc("models")


def test_main_leaves_with_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["htc", "predikt"])
    with pytest.raises(SystemExit) as caught:
        main_module.main()
    assert caught.value.code == 2


def test_the_real_command_answers_without_torch() -> None:
    code = (
        "import sys; from htc.cli.app import run; c = run(['models', '--json', '-']); sys.exit(c or 9 * "
        "('torch' in "
        "sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert len(json.loads(done.stdout)) == len(PRESETS)


def test_torch_and_torchvision_that_do_not_fit_are_named(tmp_path: Path) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "htc", "demo"],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 2
    assert "do not work together: importing torchvision fails: operator torchvision::nms does not exist" in done.stderr
    assert "pip install --upgrade --force-reinstall 'torch>=2.14' 'torchvision>=0.29'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_leaves_is_no_traceback() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "htc", "models", "--schema"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")

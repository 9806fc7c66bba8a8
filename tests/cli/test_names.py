"""Other libraries' commands and flags, old flags, and the help that lists ours."""

import ast
import inspect
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from cli.conftest import Result
from htc.cli import app
from htc.cli.commands import COMMANDS, GROUPS, MEANT, with_current_flags
from htc.config import Config
from htc.inference import precision as precision_module
from htc.inference.precision import Speeds

Htc = Callable[..., Result]
PRESET = "htc_r50_fpn_1x_coco"
CALLS = {
    "predict": ("predict", "a.png", "--model", PRESET),
    "train": ("train", "--data", "data"),
    "evaluate": ("evaluate", PRESET, "--annotations", "a.json"),
}


@pytest.mark.parametrize(
    ("word", "command"),
    [
        ("val", "evaluate"),
        ("test", "evaluate"),
        ("detect", "predict"),
        ("segment", "predict"),
        ("infer", "predict"),
        ("check", "doctor"),
        ("fit", "train"),
        ("trian", "train"),
        ("VAL", "evaluate"),
    ],
)
def test_a_command_of_another_library(htc: Htc, word: str, command: str) -> None:
    assert htc(word, "--whatever") == Result(
        2, "", f"htc: there is no command `{word}`; did you mean `htc {command}`?\n`htc --help` lists the commands\n"
    )


def test_the_words_lead_to_commands_and_are_none() -> None:
    assert set(MEANT.values()) <= set(COMMANDS)
    assert not set(MEANT) & set(COMMANDS)
    assert set(GROUPS) == {command.group for command in COMMANDS.values()}


def test_a_word_like_nothing_lists_the_commands(htc: Htc) -> None:
    assert "the commands are demo, models, doctor," in htc("xyzzy").err


@pytest.mark.parametrize(
    ("command", "flag", "ours"),
    [
        ("predict", "--conf", "--score-threshold"),
        ("predict", "--imgsz", "--short-edge"),
        ("predict", "--iou", "--inference.nms_iou"),
        ("predict", "--save", "--out"),
        ("predict", "--max-det", "--max-detections"),
        ("predict", "--half", "--precision bf16"),
        ("predict", "--batch", "--batch-size"),
        ("predict", "--name", "--out"),
        ("predict", "--project", "--out"),
        ("predict", "--interleaved", "--cascade.interleaved"),
        ("predict", "--modle", "--model"),
        ("train", "--batch", "--batch-size"),
        ("train", "--imgsz", "--input.short_edge"),
        ("train", "--lr0", "--lr"),
        ("train", "--cfg", "--config"),
        ("train", "--amp", "--precision bf16"),
        ("train", "--patience", "--training.early_stop"),
        ("train", "--time", "--max-time"),
        ("train", "--project", "--out"),
        ("train", "--pretrained", "--weights"),
        ("train", "--epoch", "--epochs"),
        ("train", "--num-workers", "--workers"),
        ("evaluate", "--batch", "--batch-size"),
        ("evaluate", "--conf", "--inference.score_threshold"),
        ("evaluate", "--anotations", "--annotations"),
    ],
)
def test_a_flag_of_another_library(htc: Htc, command: str, flag: str, ours: str) -> None:
    result = htc(*CALLS[command], flag, "1")
    assert result.code == 2
    assert f"htc: unknown option {flag}; did you mean {ours}?\n" in result.err


def test_what_has_no_flag_here(htc: Htc) -> None:
    assert "unknown option --source: give SOURCE without a flag, as in htc predict SOURCE..." in (
        htc("predict", "--source", "a.png", "--model", PRESET).err
    )
    assert "give MODEL without a flag" in htc("evaluate", "--model", PRESET).err
    assert "--resume takes no value" in htc("train", "--data", "data", "--resume", "last.pt").err
    assert "unknown option --bogus\n" in htc(*CALLS["predict"], "--bogus").err


def test_several_devices_are_for_training(htc: Htc) -> None:
    assert "to train on several: --devices 2" in htc("train", "--data", "data", "--device", "0,1").err
    assert "--devices" not in htc(*CALLS["predict"], "--device", "0,1").err


def test_old_flags_work_with_a_warning(htc: Htc, model: Path, data: Path) -> None:
    old, new = (
        htc("predict", data / "val", "--model", model, "--no-draw", "--json", "-", flag, "1:flip")
        for flag in ("--augment", "--views")
    )
    assert (old.code, old.out) == (new.code, new.out) == (0, new.out)
    assert old.err == "htc: warning: --augment is now called --views; the next release rejects the old name\n" + (
        new.err
    )
    result = htc("convert", "no.pth", "out", "--colours=bgr")
    assert "htc: warning: --colours is now called --colors" in result.err


def test_an_old_field_works_with_one_warning(htc: Htc, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("backbone: {standardised: true}\n")
    result = htc("train", "--preset", PRESET, "--config", "own.yaml", "--print-config")
    assert Config.model_validate(yaml.safe_load(result.out)).backbone.model_dump()["standardized"] is True
    assert result.err.splitlines() == [
        "htc: warning: own.yaml: backbone.standardised: standardised is now called standardized; the next release "
        "rejects the old name"
    ]


def test_flags_after_the_double_dash_stay() -> None:
    given = ["predict", "--augment=1", "--", "--augment"]
    assert with_current_flags(COMMANDS["predict"], given) == (
        ["predict", "--views=1", "--", "--augment"],
        [("--augment", "--views")],
    )


def test_the_help_groups_the_commands(htc: Htc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = [line.rstrip() for line in htc("--help").out.splitlines()]
    assert max(map(len, lines)) <= 80
    titles = [line.split(" ")[1:-1] for line in lines if line.startswith("╭")]
    assert [" ".join(title).rstrip("─ ") for title in titles] == [*GROUPS, "Options"]
    assert len(lines) <= 48  # a screen
    assert " htc train --data my_data                          # train on it" in lines


def test_the_help_of_a_learning_rate_says_what_it_means(htc: Htc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = " ".join(htc("train", "--help").out.split())
    assert "SGD scales it linearly with the images per step, LR being for 16; AdamW takes it as it is" in text


def test_every_example_can_be_parsed() -> None:
    for command in COMMANDS.values():
        for call, _ in command.examples:
            words = call.replace("'", "").split()
            assert words[0] == command.name
            assert len(f"  htc {call}") <= 80
            app.build(command.name).parse_args(words, exit_on_error=False, print_error=False)


def test_the_help_needs_no_settings_and_no_torch() -> None:
    """The table of commands imports nothing of the package: that is what makes `htc --help` quick."""
    source = ast.parse(inspect.getsource(inspect.getmodule(with_current_flags)))  # type: ignore[arg-type]
    imported = [node.module for node in ast.walk(source) if isinstance(node, ast.ImportFrom)]
    assert not [name for name in imported if name and name.startswith("htc")]


@pytest.fixture
def slow_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor whose bf16 is slower."""
    monkeypatch.setattr(precision_module.resolve_precision, "__defaults__", (lambda _: Speeds(fp32=150, bf16=84),))


@pytest.mark.usefixtures("slow_bf16")
def test_precision_auto_says_what_it_took(htc: Htc, model: Path, data: Path) -> None:
    call = ("predict", data / "val", "--model", model, "--device", "cpu", "--no-draw", "--json", "-")
    line = "precision auto: fp32 (GFLOP/s of a convolution: bf16 84, fp32 150)\n"
    plain, auto, bf16 = htc(*call), htc(*call, "--precision", "auto"), htc(*call, "--precision", "bf16")
    assert (auto.code, auto.out) == (0, plain.out)
    assert auto.err == line + plain.err
    assert "htc: warning: precision bf16 is slower than fp32 on this CPU" in bf16.err
    assert bf16.err.count("slower") == 1
    assert logging.getLogger("htc").handlers == []


@pytest.mark.usefixtures("slow_bf16")
def test_precision_auto_is_never_stored(htc: Htc, model: Path, tmp_path: Path) -> None:
    printed = htc("convert", model, "again", "--precision", "auto", "--print-config")
    assert yaml.safe_load(printed.out)["precision"] == "fp32"
    assert htc("convert", model, "again", "--precision", "auto").code == 0
    assert '"precision": "fp32"' in (tmp_path / "again" / "config.json").read_text()


def test_evaluation_keeps_the_precision_of_the_model(
    htc: Htc, model: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(_device: object) -> Speeds:
        raise AssertionError("nothing is to be chosen")

    monkeypatch.setattr(precision_module.resolve_precision, "__defaults__", (never,))
    call = ("evaluate", model, "--annotations", data / "annotations" / "instances_val.json", "--json", "-")
    plain, auto = htc(*call), htc(*call, "--precision", "auto")
    assert (auto.code, auto.out) == (0, plain.out)
    assert "precision" not in auto.err


def test_predict_reads_ahead_with_workers(htc: Htc, model: Path, data: Path) -> None:
    call = ("predict", data / "val", "--model", model, "--no-draw", "--json", "-")
    assert htc(*call, "--workers", "2", "--batch-size", "2").out == htc(*call).out

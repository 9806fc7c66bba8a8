"""Names of other libraries lead to ours; every name of ours in the table exists."""

from collections.abc import Callable
from typing import Any

import pytest

import htc
from htc.cli.app import build
from htc.cli.commands import COMMANDS
from htc.inference.predictor import ImagePredictor
from htc.keywords import ELSEWHERE, near_names, unknown_option
from htc.settings.names import all_names


@pytest.mark.parametrize(
    ("word", "options", "found"),
    [
        ("conf", ["score_threshold", "out"], ["score_threshold"]),
        ("save-dir", ["score_threshold", "out"], ["out"]),
        ("imgsz", ["short_edge", "input.short_edge"], ["short_edge"]),
        ("imgsz", ["lr", "input.short_edge"], ["input.short_edge"]),
        ("half", ["precision", "out"], ["precision bf16"]),
        ("score_treshold", ["score_threshold", "out"], ["score_threshold"]),
        ("imgsz", ["lr", "out"], []),
        ("short_edgy", ["input.short_edge", "out"], []),  # a field is named only where it is meant
    ],
)
def test_near_names(word: str, options: list[str], found: list[str]) -> None:
    assert near_names(word, options) == found


def test_every_name_of_ours_exists() -> None:
    ours = {one.split()[0] for names in ELSEWHERE.values() for one in names}
    flags = {
        name.removeprefix("--").replace("-", "_")
        for command in COMMANDS
        for argument in build(command)[command].assemble_argument_collection()
        for name in argument.names
    }
    assert ours <= flags | set(all_names())


@pytest.mark.parametrize(
    ("function", "option", "meant"),
    [
        (ImagePredictor.predict, "conf", "did you mean score_threshold?"),
        (ImagePredictor.predict, "imgsz", "did you mean short_edge?"),
        (ImagePredictor.predict_many, "batch", "did you mean batch_size?"),
        (ImagePredictor.predict_many, "bogus", "its options are score_threshold, batch_size, workers"),
    ],
)
def test_python_names_the_same_option(function: Callable[..., Any], option: str, meant: str) -> None:
    assert meant in str(unknown_option(function, {option: 1}))


def test_a_value_is_written_as_an_argument() -> None:
    def run(*, precision: str = "fp32") -> None: ...

    assert "did you mean precision='bf16'?" in str(unknown_option(run, {"half": True}))


def test_the_public_predictor_has_these_messages() -> None:
    with pytest.raises(TypeError, match="max_detections"):
        next(htc.Predictor.predict_many(None, [], max_det=3))  # type: ignore[call-overload, arg-type]

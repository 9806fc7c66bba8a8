"""Configuration flags are told apart from the verb's own flags, whatever their order."""

import pytest

from htc.cli.options import split
from htc.errors import ConfigError

OWN = {"--model", "--semantic", "--out"}


@pytest.mark.parametrize(
    ("arguments", "rest", "found"),
    [
        ([], [], []),
        (["predict", "a.jpg", "--model", "m"], ["predict", "a.jpg", "--model", "m"], []),
        (
            ["predict", "--cascade.interleaved", "false", "a.jpg"],
            ["predict", "a.jpg"],
            [("cascade.interleaved", "false")],
        ),
        (["predict", "--cascade.interleaved=false", "a.jpg"], ["predict", "a.jpg"], [("cascade.interleaved", "false")]),
        (["train", "--precision", "bf16"], ["train"], [("precision", "bf16")]),
        (["train", "--semantic", "none"], ["train", "--semantic", "none"], []),
        (["train", "--semantic.loss-weight", "-1"], ["train"], [("semantic.loss-weight", "-1")]),
        (["train", "--category-ids", "[1]"], ["train"], [("category-ids", "[1]")]),
        (["predict", "--", "--cascade.interleaved", "false"], ["predict", "--", "--cascade.interleaved", "false"], []),
        (["predict", "--bogus", "x"], ["predict", "--bogus", "x"], []),
        (["predict", "--cascad.ious="], ["predict"], [("cascad.ious", "")]),
    ],
)
def test_settings_are_taken_out(arguments: list[str], rest: list[str], found: list[tuple[str, str]]) -> None:
    assert split(arguments, OWN) == (rest, found)


@pytest.mark.parametrize(
    "arguments", [["predict", "--cascade.interleaved"], ["predict", "--cascade.interleaved", "--model", "m"]]
)
def test_a_setting_without_a_value_is_named(arguments: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"--cascade.interleaved needs a value"):
        split(arguments, OWN)

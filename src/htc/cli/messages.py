"""Error messages for calls that cannot be parsed, with the most likely correction."""

from collections.abc import Sequence
from difflib import get_close_matches

from cyclopts import CoercionError, CycloptsError, MissingArgumentError, UnknownOptionError, UnusedCliTokensError

from htc.cli.commands import COMMANDS
from htc.devices import SeveralDevicesError
from htc.errors import ConfigError
from htc.keywords import near_names

REQUIRED = {
    "--model": "name a preset (`htc models` lists them), a folder that `htc train` or `htc convert` wrote, or a "
    "weights file",
    "SRC": "name the checkpoint to convert",
    "DST": "name the new folder",
    "DATA": "name the folder of a COCO dataset, or its annotation file and IMAGES",
}
"""Hints for required arguments."""


def explain(error: CycloptsError, arguments: Sequence[str]) -> str:
    """Return the message for a parsing error of a call with these arguments, and the command that prints the help."""
    command = " ".join(error.command_chain or ())
    return f"{_fault(error, command, arguments)}\n`{f'htc {command}'.strip()} --help` lists the options"


def _fault(error: CycloptsError, command: str, arguments: Sequence[str]) -> str:
    if isinstance(error, UnusedCliTokensError):
        hint = "; --resume takes no value: give the folder of the run as --out DIR" if "--resume" in arguments else ""
        return f"unexpected arguments of `htc {command}`: {' '.join(error.unused_tokens or ())}{hint}"
    if isinstance(error, UnknownOptionError):
        return _unknown_option(error, command)
    if isinstance(error, CoercionError) and isinstance(error.__cause__, ConfigError):
        return _unusable_device(error.__cause__, command)
    if not isinstance(error, MissingArgumentError) or error.argument is None:
        return str(error)
    if error.keyword is not None or error.argument.tokens:
        return f"{error.keyword or error.argument.name} needs a value"
    return _missing(error, error.argument.name, arguments)


def _missing(error: MissingArgumentError, name: str, arguments: Sequence[str]) -> str:
    near = str(error).partition("Did you mean ")[2]
    if near:
        return f"{name} is missing; did you mean {near}"
    if name == "--model" and "--weights" in arguments:
        return (
            "--model is missing: give a weights file as --model FILE; --weights FILE is for weights of a preset, "
            "as in --model PRESET --weights FILE"
        )
    return f"{name} is missing: {REQUIRED.get(name, 'it has no default')}"


def _unknown_option(error: UnknownOptionError, command: str) -> str:
    """Suggest the option that corresponds to one of another library, else the nearest option or configuration field."""
    given = (error.token.keyword or error.token.value).partition("=")[0]
    if command not in COMMANDS or not given.startswith("--"):
        return str(error)
    from htc.settings.names import all_names

    word = given.removeprefix("--")
    flags = {name: name.removeprefix("--").replace("-", "_") for arg in error.argument_collection for name in arg.names}
    takes_settings = "--config" in flags
    fields = [name for name in all_names() if "." in name] if takes_settings else []
    near = near_names(word.replace("-", "_"), [*flags.values(), *fields], cutoff=0.6)[:1]
    if not near:  # compare with the last part of each field, as in --interleaved
        last_words = {name.rpartition(".")[2]: name for name in reversed(fields)}
        near = [last_words[one] for one in get_close_matches(word.replace("-", "_"), last_words, n=1, cutoff=0.8)]
    if not near:
        return f"unknown option {given}"
    if near[0] in flags:  # a positional argument, named in upper case
        return f"unknown option {given}: give {near[0]} without a flag, as in htc {command} {COMMANDS[command].usage}"
    return f"unknown option {given}; did you mean {_as_flag(near[0])}?"


def _as_flag(option: str) -> str:
    """`precision bf16` -> `--precision bf16`, `score_threshold` -> `--score-threshold`; fields are unchanged."""
    name, blank, value = option.partition(" ")
    return f"--{name if '.' in name else name.replace('_', '-')}{blank}{value}"


def _unusable_device(fault: ConfigError, command: str) -> str:
    if isinstance(fault, SeveralDevicesError) and command == "train":
        return f"--{fault}; to train on several: --devices {fault.count}"
    return f"--{fault}"

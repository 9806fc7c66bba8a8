"""Random command lines: exit code 0, 1 or 2, one message, never a traceback."""

import io
import os
import random
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from htc.checkpoint.native import save_pretrained
from htc.cli.app import build, run
from htc.cli.commands import COMMANDS
from htc.presets import PRESETS
from htc.settings.names import all_names
from stress_tests.harness import Case, Stress, describe
from stress_tests.samples import random_state, tiny_config, write_dataset

LONG = ("train", "demo", "ablate", "benchmark")
"""Commands that would work for minutes: they are called so that they stop before the work."""
VALUES = (
    *("0", "1", "2", "-1", "0.5", "1e9", "nan", "inf", "", "none", "null", "true", "auto", "cpu", "cuda:7", "mps", "x"),
    *(
        "fp32",
        "bf16",
        "[1,2]",
        "{}",
        "-",
        "--",
        "a b",
        "\u00fc\u0301.png",
        "/dev/null",
        "C:\\x",
        "*",
        "#",
    ),
)


def prepare(shared: Path) -> Case:
    """Make a model, a dataset and the list of flags of each command."""
    config = tiny_config()
    model = save_pretrained(random_state(config), config, shared / "model")
    annotations = write_dataset(shared / "data", "train", 2, 0)
    (shared / "broken.json").write_text("{", encoding="utf-8")
    (shared / "settings.yaml").write_text("inference:\n  max_detections: 5\n", encoding="utf-8")
    flags = {name: flags_of(name) for name in COMMANDS}
    fields = [name for name in all_names() if "." in name]
    paths = [model, model / "model.safetensors", annotations, shared / "data/train", shared / "data/train/0.png"]
    paths += [shared / "broken.json", shared / "settings.yaml", shared / "missing", shared / "data"]
    words = [*VALUES, *map(str, paths), *map(str, paths), *list(PRESETS)[:4]]

    def case(_index: int, numbers: random.Random, folder: Path) -> str | None:
        line = command_line(numbers, flags, fields, words, str(model))
        return outcome(line, folder)

    return case


def flags_of(name: str) -> list[str]:
    """Return the flags of a command."""
    collection = build(name)[name].assemble_argument_collection()
    return sorted({flag for argument in collection for flag in argument.names if flag.startswith("--")})


def command_line(
    numbers: random.Random, flags: dict[str, list[str]], fields: list[str], words: list[str], model: str
) -> list[str]:
    """Make a command line of flags and values, many of which fit each other."""
    name = numbers.choice([*flags, *flags, "help", "segment", "predct", "", "--help", "--version", "-x"])
    line = [name]
    for _ in range(numbers.randrange(3)):
        line.append(numbers.choice(words))
    if numbers.random() < 0.6 and "--model" in flags.get(name, ()):
        line += ["--model", model]
    for _ in range(numbers.randrange(5)):
        flag = numbers.choice(flags.get(name) or ["--json"])
        flag = f"--{numbers.choice(fields)}" if numbers.random() < 0.2 else flag
        flag = flag[:-1] if numbers.random() < 0.05 else flag
        if numbers.random() < 0.1:
            line.append(f"{flag}={numbers.choice(words)}")
        else:
            line.append(flag)
            if numbers.random() < 0.8:
                line.append(numbers.choice(words))
    if name in LONG and "--print-config" not in line:
        line += numbers.choice((["--print-config"], ["--no-such-flag"], ["--out", "/dev/null/x"], ["--help"]))
    return line


def outcome(line: list[str], folder: Path) -> str | None:
    """Call the command line in the folder; return what is wrong with its exit code or its messages."""
    os.chdir(folder)
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
    shown = " ".join(map(repr, line))
    describe(f"htc {shown}")
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = run(line)
    except SystemExit as error:
        code = error.code
    except BaseException as error:
        return f"htc {shown}: {type(error).__name__}: {error}"
    finally:
        os.chdir("/")
    text = err.getvalue()
    if code not in (0, 1, 2):
        return f"htc {shown}: exit code {code}"
    if "Traceback" in text:
        return f"htc {shown}: a traceback"
    messages = [one for one in text.splitlines() if one.startswith("htc: ") and not one.startswith("htc: warning: ")]
    if code == 2 and (not messages or len(set(messages)) < len(messages)):  # one for each image that cannot be read
        return f"htc {shown}: exit code 2 with {len(messages)} messages: {text[:500]}"
    return None


STRESS = Stress(
    "command-lines",
    "random command lines: exit code 0, 1 or 2, one message, never a traceback",
    1_000,
    prepare,
    seconds=120,
    at_least=20,
)

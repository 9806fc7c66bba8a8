"""The command as a process: signals, pipes, the time to an answer."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

import pytest

from cli.conftest import Result
from htc.presets import PRESETS

HTC = (sys.executable, "-m", "htc")


def _ended(process: subprocess.Popen[str], sent: signal.Signals) -> str:
    """What the process wrote until the signal ended it. Once more if it came just between opening the pipe and
    reading from it.
    """
    for _ in range(12):
        process.send_signal(sent)
        with suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=10)[1]
    pytest.fail(f"{sent.name} did not end the process")


def _open_once_read(pipe: Path, process: subprocess.Popen[str]) -> IO[bytes]:
    """The pipe's other end, as soon as the process reads from it; a process that ends instead fails the test with
    what it said.
    """
    while process.poll() is None:
        with suppress(OSError):  # nobody reads yet
            return os.fdopen(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK), "wb", buffering=0)
        time.sleep(0.05)
    pytest.fail(f"ended with {process.returncode}: {process.communicate()[1]}")


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes or POSIX signals")
@pytest.mark.parametrize(
    ("sent", "code", "message"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_ends_the_work(
    tmp_path: Path, data: Path, model: Path, sent: signal.Signals, code: int, message: str
) -> None:
    pipe = tmp_path / "annotations.json"
    os.mkfifo(pipe)  # the command waits in reading it, so the signal never comes too early or too late
    call = [
        *HTC,
        "predict",
        str(data / "val"),
        "--model",
        str(model),
        "--annotations",
        str(pipe),
        "--json",
        "found.json",
    ]
    # A test run in the background of a shell ignores SIGINT, and its children would.
    process = subprocess.Popen(
        call,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    with _open_once_read(pipe, process):
        err = _ended(process, sent)
    assert (process.returncode, err) == (code, f"htc: {message}\n")
    assert [path.name for path in tmp_path.iterdir()] == [pipe.name]


def test_a_list_is_there_at_once() -> None:
    used = []
    for _ in range(3):
        before, start = os.times(), time.monotonic()
        done = subprocess.run([*HTC, "models", "--json", "-"], capture_output=True, text=True, timeout=120)
        after = os.times()
        used.append(
            min(
                after.children_user + after.children_system - before.children_user - before.children_system,
                time.monotonic() - start,
            )
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert len(json.loads(done.stdout)) == len(PRESETS)
    assert min(used) < 3  # processor seconds: 0.5 on an idle machine, 1.6 on a slow one; importing torch takes longer


def test_only_part_of_a_list_is_read() -> None:
    shell = subprocess.run(
        f"'{sys.executable}' -m htc models --schema | head -n 1",
        shell=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (shell.returncode, shell.stdout, shell.stderr) == (0, "{\n", "")


def test_help_mentions_defaults_and_settings(htc: Callable[..., Result]) -> None:
    for verb in ("predict", "train", "evaluate", "convert", "benchmark"):
        text = " ".join(htc(verb, "--help").out.replace("│", " ").split())  # as one line
        for part in (
            "--inference.nms_iou 0.6",
            "HTC_INFERENCE__NMS_IOU=0.6",
            "--config",
            "--print-config",
            "--device",
            "--precision",
            "[default: auto]",
        ):
            assert part in text
    assert "0.5" in htc("predict", "--help").out
    assert "runs/predict/NAME" in htc("predict", "--help").out
    assert "Every field" not in htc("models", "--help").out
    assert htc("--help").out == htc().out

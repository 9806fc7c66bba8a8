"""How a training is shown."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from htc.training import display as module
from htc.training.display import Display, LogFile, displaying
from htc.training.events import (
    Choice,
    Downloading,
    EvaluationDone,
    EvaluationStep,
    Finished,
    Message,
    Phase,
    Planned,
    StepDone,
)


class Shown:
    """A display without a terminal, and a clock that the test turns."""

    def __init__(self, minutes=None):
        self.time = 100.0
        self.text = io.StringIO()
        self.display = Display(Console(file=self.text, width=200), lambda: self.time)
        self.display.minutes = minutes

    @property
    def lines(self):
        return self.text.getvalue().splitlines()

    def live(self):
        out = io.StringIO()
        Console(file=out, width=120).print(self.display)
        return out.getvalue()


def step(number, epoch, loss=1.0, memory=1.5):
    losses = {
        "rpn.class": 0.1,
        "rpn.box": 0.1,
        "semantic": 0.3,
        "stage1.class": loss,
        "stage1.box": 0.2,
        "stage1.mask": 0.4,
    }
    return StepDone(number, 12, epoch, 3, 0.0025, losses, memory)


def timed(number, images=4, waited=0.0):
    return replace(step(number, 1), images=images, waited=waited)


def evaluated(epoch, mask, best=True, stops=False):
    return EvaluationDone(
        {
            "epoch": epoch,
            "step": 4 * epoch,
            "segm": {"AP": mask},
            "bbox": {"AP": 0.5},
            "losses": {"stage1.mask": 0.75, "rpn.class": 0.25},
        },
        best,
        stops,
    )


def test_a_line_for_each_evaluation():
    shown = Shown()
    for number in range(1, 5):
        shown.time += 10
        shown.display(step(number, 1))
    assert shown.lines == ["epoch 1/3, step 3/12, loss 2.100, lr 0.0025, memory 1.5 GiB, 0:30 elapsed, 1:30 left"]
    shown.display(EvaluationStep(1, 5))
    shown.time += 8
    shown.display(evaluated(1, 0.123))
    shown.display(step(5, 2))
    # 38 s since the first step, for 3 further steps and an evaluation: 12.7 s a step, 8 left.
    assert shown.lines[1:] == [
        "epoch 1/3, step 4/12, loss 2.100, validation loss 1.000, mask AP 12.3, box AP 50.0 (best so far), lr 0.0025, "
        "memory 1.5 GiB, 0:48 elapsed, 1:41 left"
    ]


def test_between_evaluations_a_line_now_and_then():
    shown = Shown()
    for number in range(1, 11):
        shown.time += 7
        shown.display(step(number, 1, memory=None))
    shown.time += 20
    shown.display(EvaluationStep(3, 9))
    shown.display.close()
    assert [line.split(", lr")[0] for line in shown.lines] == [
        "epoch 1/3, step 5/12, loss 2.100",
        "epoch 1/3, step 10/12, loss 2.100",
    ]
    shown.time += 30
    shown.display(EvaluationStep(5, 9))
    assert shown.lines[-1] == "evaluating: 5 of 9 images"
    assert "memory" not in shown.lines[0]


def test_the_last_step_has_a_line():
    shown = Shown()
    shown.display(step(1, 1))
    shown.display.close()
    shown.display.close()
    assert len(shown.lines) == 1


def test_time_left_ends_with_the_limit_and_begins_with_a_resumed_step():
    shown = Shown(minutes=1.0)
    assert shown.display.seconds_left() is None
    shown.time += 20
    shown.display(step(9, 3))
    assert shown.display.seconds_left() == pytest.approx(40)  # 3 steps of 20 s would be 60, the minute leaves 40
    shown.display.minutes = None
    assert shown.display.seconds_left() == pytest.approx(60)
    shown.time += 4
    shown.display(step(10, 3))
    assert shown.display.seconds_left() == pytest.approx(8)  # the first step, which also starts up, no longer counts


def test_the_live_display_holds_everything():
    shown = Shown()
    shown.display(Phase("checking the dataset"))
    shown.time += 3
    assert shown.live().strip() == "checking the dataset ... 0:03"
    shown.time += 10
    shown.display(step(1, 1))
    shown.display(evaluated(1, 0.2))
    shown.display(step(5, 2, loss=3.0))
    shown.display(evaluated(2, 0.1, best=False))
    shown.display(EvaluationStep(3, 9))
    live = shown.live()
    for part in (
        "epoch 2/3",
        "step 5/12",
        "evaluating 3/9",
        "lr 0.0025",
        "memory 1.5 GiB",
        "left",
        "mask AP 10.0",
        "best: epoch 1, mask AP 20.0",
    ):
        assert part in live, part
    row = next(line for line in live.splitlines() if line.startswith("stage1")).split()
    assert row == ["stage1", "2.000", "0.200", "0.400", "2.600", "0.750", "0.750"]
    assert next(line for line in live.splitlines() if line.startswith("all")).split() == ["all", "3.100", "1.000"]


def test_phases_messages_and_an_early_end():
    shown = Shown()
    shown.display(Phase("reading the annotations"))
    shown.display(Message("all layers start from [old]"))
    shown.display(step(1, 1))
    shown.display(evaluated(1, -1.0, best=False, stops=True))
    assert shown.lines[:2] == ["reading the annotations", "all layers start from [old]"]
    assert "mask AP -" in shown.lines[2]
    assert "training.early_stop" in shown.lines[3]


def test_a_resumed_run_may_begin_with_an_evaluation():
    shown = Shown()
    shown.display(evaluated(2, 0.25))
    assert shown.lines == ["evaluation after epoch 2: mask AP 25.0, box AP 50.0"]


def test_the_plan_has_a_line_for_each_choice():
    shown = Shown()
    choices = (Choice({"preset": "small"}, "few images"), Choice({"a.b": (1.5, None), "c": True}, "a rule of both"))
    shown.display(Planned(12, 340, 1, choices, minutes=5))
    assert shown.display.minutes == 5
    assert shown.lines == [
        "12 images, 340 instances, 1 class. Chosen for this dataset (override with flags or --preset):",
        "  preset  small      few images",
        "  a.b     1.5, none  a rule of both",
        "  c       True",
    ]


def test_a_download_has_a_line_now_and_then():
    shown = Shown()
    shown.display(Downloading("weights", 1 << 20, 9 << 20))
    shown.time += 30
    shown.display(Downloading("weights", 5 << 20, None))
    assert shown.lines == ["downloading weights: 5 MiB"]


def test_nothing_a_function_or_a_display(monkeypatch):
    text = io.StringIO()
    monkeypatch.setattr(module, "message_console", lambda: Console(file=text, width=100))
    with displaying(False) as listener:
        listener(Phase("a"))
    seen = []
    with displaying(seen.append) as listener:
        listener(Phase("b"))
    with displaying(True) as listener:
        listener(Phase("c"))
    assert seen == [Phase("b")]
    assert text.getvalue() == "c\n"


def test_a_terminal_has_a_live_display(monkeypatch):
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=100, _environ={"TERM": "xterm"})
    monkeypatch.setattr(module, "message_console", lambda: console)
    with displaying(True) as listener:
        listener(Phase("building the model"))
        listener(step(1, 1))
    assert "step 1/12" in text.getvalue()


def test_speed_and_wait_leave_evaluations_out():
    shown = Shown()
    shown.display(timed(1, waited=5.0))  # the first step also starts up
    assert shown.display.images_per_second() is None
    for number in range(2, 5):
        shown.time += 2
        shown.display(timed(number, waited=5.0 + 0.5 * (number - 1)))
    assert shown.display.images_per_second() == pytest.approx(2.0)
    assert shown.display.waiting() == pytest.approx(0.25)
    shown.display(EvaluationStep(1, 5))
    shown.time += 100
    shown.display(evaluated(1, 0.3))
    shown.time += 2
    shown.display(timed(5, waited=7.0))
    assert shown.display.images_per_second() == pytest.approx(2.0)
    assert shown.display.waiting() == pytest.approx(0.25)
    assert "lr 0.0025, 2 images/s, 25% waiting for data, memory 1.5 GiB" in shown.display.line()
    assert "2 images/s" in shown.live()
    assert "25% waiting for data" in shown.live()


def test_the_end_names_reason_place_and_next_command():
    shown = Shown()
    shown.display(step(12, 3))
    shown.time += 90
    shown.display(Finished("all 3 epochs are done", "runs/a", "runs/a/model", "look at it", "htc predict"))
    assert shown.lines[-3:] == [
        "ended after 1:30: all 3 epochs are done",
        "model: runs/a/model    metrics, curves and images: runs/a",
        "look at it: htc predict",
    ]
    assert shown.lines[0].startswith("epoch 3/3, step 12/12"), "the last step has its line before"


def test_a_log_file_has_every_line_and_exists_from_the_first_step_on(tmp_path):
    path, passed = tmp_path / "train.log", []
    log = LogFile(path, passed.append)
    log(Phase("reading"))
    log(Message("all layers start from weights"))
    assert not path.exists()
    log(step(1, 1))
    log(evaluated(1, 0.25))
    log(step(2, 1))
    log.close()
    lines = path.read_text().splitlines()
    assert lines[:2] == ["reading", "all layers start from weights"]
    assert "mask AP 25.0, box AP 50.0 (best so far)" in lines[2]
    assert "step 2/12" in lines[3]
    assert len(passed) == 5
    again = LogFile(path, passed.append)
    again(step(3, 1))
    again.close()
    assert path.read_text().splitlines()[:4] == lines, "a resumed run goes on in the same file"
    LogFile(tmp_path / "none.log", passed.append).close()
    assert not (tmp_path / "none.log").exists()

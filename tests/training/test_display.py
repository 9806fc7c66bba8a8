"""How a training is shown, with a clock that the test turns."""

import io

import pytest
from htc.cli.watch import Watch, clock
from rich.console import Console

from htc.training.events import EvaluationDone, EvaluationStep, Message, StepDone


class Shown:
    def __init__(self, minutes=None, memory=1.5):
        self.time = 100.0
        self.text = io.StringIO()
        self.watch = Watch(Console(file=self.text, width=200), minutes, lambda: memory, lambda: self.time)

    @property
    def lines(self):
        return self.text.getvalue().splitlines()

    def live(self):
        out = io.StringIO()
        Console(file=out, width=120).print(self.watch)
        return out.getvalue()


def step(number, epoch, loss=1.0):
    losses = {
        "rpn.class": 0.1,
        "rpn.box": 0.1,
        "semantic": 0.3,
        "stage1.class": loss,
        "stage1.box": 0.2,
        "stage1.mask": 0.4,
    }
    return StepDone(number, 12, epoch, 3, 0.0025, losses)


def measured(epoch, mask, best=True, stops=False):
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


def test_a_line_an_evaluation():
    shown = Shown()
    for number in range(1, 5):
        shown.time += 10
        shown.watch(step(number, 1))
    shown.watch(EvaluationStep(1, 5))
    shown.time += 8
    shown.watch(measured(1, 0.123))
    shown.watch(step(5, 2))
    # 48 s for 4 steps and an evaluation: 12 s a step, 8 left.
    assert shown.lines == [
        "epoch 1/3, step 4/12, loss 2.100, validation loss 1.000, mask AP 12.3, box AP 50.0 (best so far), lr 0.0025, "
        "memory 1.5 GiB, 0:48 passed, 1:36 left"
    ]


def test_an_epoch_without_evaluation_has_a_line_too():
    shown = Shown(memory=None)
    for number, epoch in ((1, 1), (2, 1), (3, 2), (4, 2)):
        shown.time += 1
        shown.watch(step(number, epoch))
    shown.watch.close()
    assert [line.split(", lr")[0] for line in shown.lines] == [
        "epoch 1/3, step 2/12, loss 2.100",
        "epoch 2/3, step 4/12, loss 2.100",
    ]
    assert "memory" not in shown.lines[0]


def test_time_left_ends_with_the_limit_and_begins_with_a_resumed_step():
    shown = Shown(minutes=1.0)
    assert shown.watch.seconds_left() is None
    shown.time += 20
    shown.watch(step(9, 3))
    assert shown.watch.seconds_left() == pytest.approx(40)  # 3 steps of 20 s would be 60, the minute leaves 40
    shown.watch.minutes = None
    assert shown.watch.seconds_left() == pytest.approx(60)


def test_the_live_display_holds_everything():
    shown = Shown()
    assert "preparing" in shown.live()
    shown.time += 10
    shown.watch(step(1, 1))
    shown.watch(measured(1, 0.2))
    shown.watch(step(5, 2, loss=3.0))
    shown.watch(measured(2, 0.1, best=False))
    shown.watch(EvaluationStep(3, 9))
    live = shown.live()
    for part in (
        "epoch 2/3",
        "step 5/12",
        "measuring 3/9",
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


def test_what_is_said_and_an_early_end():
    shown = Shown()
    shown.watch(Message("all layers start from [old]"))
    shown.watch(step(1, 1))
    shown.watch(measured(1, -1.0, best=False, stops=True))
    assert shown.lines[0] == "all layers start from [old]"
    assert "mask AP -" in shown.lines[1]
    assert "training.early_stop" in shown.lines[2]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (187, "3:07"), (3723, "1:02:03"), (2 * 86400 + 11045, "2 d 3:04:05")]
)
def test_clock(seconds, text):
    assert clock(seconds) == text

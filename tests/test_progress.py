"""How progress is shown: a bar on a terminal, a line now and then in a file, nothing, or a function."""

import io

import pytest
from rich.console import Console

from htc import progress
from htc.progress import Lines, clock, reporting


class Clock:
    def __init__(self):
        self.time = 100.0

    def __call__(self):
        return self.time


def lines_of(calls):
    text, now = io.StringIO(), Clock()
    lines = Lines(Console(file=text, width=200), "evaluate", now)
    for seconds, *call in calls:
        now.time += seconds
        lines(*call)
    return text.getvalue().splitlines()


def test_short_work_prints_nothing():
    assert lines_of([(10, 1, 3), (10, 2, 3), (9, 3, 3)]) == []


def test_a_line_after_half_a_minute_and_not_at_every_call():
    assert lines_of([(30, 10, 30), (5, 12, 30), (25, 20, 30, "cats")]) == [
        "evaluate: 10 of 30 (33 %), 0:30 elapsed, 1:00 left",
        "evaluate cats: 20 of 30 (66 %), 1:00 elapsed, 0:30 left",
    ]


def test_counting_anew_does_not_spoil_the_time_left():
    shown = lines_of([(60, 30, 30, "a"), (1, 1, 30, "b"), (29, 15, 30, "b")])
    assert shown[-1] == "evaluate b: 15 of 30 (50 %), 1:30 elapsed, 0:30 left"


def test_the_total_may_be_unknown():
    assert lines_of([(30, 7, 0)]) == ["evaluate: 7, 0:30 elapsed"]


def test_false_is_silent_and_a_function_is_called(capsys):
    with reporting(False, "doctor") as tell:
        tell(1, 2)
    seen = []
    with reporting(lambda *call: seen.append(call), "doctor") as tell:
        tell(1, 2, "x")
    assert seen == [(1, 2, "x")]
    assert capsys.readouterr() == ("", "")


def test_a_terminal_has_a_bar(monkeypatch):
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=100, _environ={"TERM": "xterm"})
    monkeypatch.setattr(progress, "message_console", lambda: console)
    with reporting(True, "evaluate") as tell:
        tell(1, 4, "model a")
        tell(4, 4, "model a")
    assert "4/4" in text.getvalue()
    assert "model a" in text.getvalue()


def test_a_notebook_without_ipywidgets_has_lines(monkeypatch):
    console = Console(file=io.StringIO(), force_jupyter=True)
    monkeypatch.setattr(progress, "find_spec", lambda _name: None)
    assert not progress.animated(console)
    monkeypatch.setattr(progress, "find_spec", lambda _name: object())
    assert progress.animated(console)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (187, "3:07"), (3723, "1:02:03"), (2 * 86400 + 11045, "2 d 3:04:05")]
)
def test_clock(seconds, text):
    assert clock(seconds) == text

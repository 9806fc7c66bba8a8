"""Ctrl-C and SIGTERM that wait for the end of a training step, so that what they leave behind is whole."""

import os
import signal
import threading
from types import FrameType
from typing import Any

HELD = (signal.SIGINT, signal.SIGTERM)


class HeldSignals:
    """While `waiting`, a first signal is only noted in `received`; `deliver` then does what it would have done.

    A second signal, and any while not `waiting`, takes its usual way at once: to the handlers found by `remember`.
    """

    def __init__(self) -> None:
        self.waiting = False
        self.received: int | None = None
        self._usual: dict[int, Any] = {}
        self._before: dict[int, Any] = {}

    def remember(self) -> None:
        """Takes the handlers now in place as the usual way. Signals can be handled in the main thread only:
        elsewhere, nothing.
        """
        if threading.current_thread() is threading.main_thread():
            self._usual = {number: signal.getsignal(number) for number in HELD}

    def install(self) -> None:
        """From here on the signals come here."""
        self._before = {number: signal.signal(number, self._receive) for number in self._usual}

    def remove(self) -> None:
        """Puts back the handlers that `install` replaced."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before, self.waiting = {}, False

    def deliver(self, number: int, frame: FrameType | None = None) -> None:
        """The usual way of that signal: an exception, or the end of the process."""
        handler = self._usual.get(number, signal.SIG_DFL)
        if callable(handler):
            handler(number, frame)
        elif handler is signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.waiting and self.received is None:
            self.received = number
        else:
            self.deliver(number, frame)

"""Signals that end a run, held back until the step at hand is done and kept."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Any, Self

_ENDING = (signal.SIGINT, signal.SIGTERM)


class Stopping:
    """As a context, in the main thread: a signal while steps are done is noted, and `end` does what it asks for.

    One at any other time does so at once, and so does a second Ctrl-C. Not so a second SIGTERM, as impatient schedulers
    send, nor any under torchrun, which sends one of its own to each process behind that of a terminal: they end by
    SIGKILL whoever takes too long. Outside the context signals do what they always did.
    """

    def __init__(self) -> None:
        self.asked = False
        self.in_steps = False
        self._number: int = signal.SIGINT  # of several processes, one that heard nothing ends like those that did
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._before = {each: signal.signal(each, self._met) for each in _ENDING}
        return self

    def __exit__(self, *failure: object) -> None:
        for each, before in self._before.items():
            signal.signal(each, before)

    def end(self) -> None:
        """Do what the noted signal asks for, which raises KeyboardInterrupt or SystemExit."""
        self.in_steps = False
        self._handle(self._number, None)
        raise KeyboardInterrupt

    def _met(self, number: int, frame: FrameType | None) -> None:
        is_alone = int(os.environ.get("WORLD_SIZE", 1)) == 1
        if not self.in_steps or (self.asked and is_alone and number == signal.SIGINT):
            self._handle(number, frame)
        elif not self.asked:
            self.asked, self._number = True, number

    def _handle(self, number: int, frame: FrameType | None) -> None:
        before = self._before.get(number)
        if callable(before):
            before(number, frame)

"""Signals that end a run, held back until the step at hand is done and kept."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn, Self

from anabranch.errors import UsageError

_ENDING = [  # the last where a terminal is closed, and not on Windows
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


def variable_number(variable: str, default: int) -> int:
    """What torchrun says of a team in an environment variable. Raises UsageError."""
    told = os.environ.get(variable, str(default))
    if not told.isdecimal():
        raise UsageError(f"{variable} = {told!r} is no number; start the processes with torchrun, or unset it")
    return int(told)


class Stopping:
    """As a context, in the main thread: a signal within `held` is noted, and does what it asks for at its end.

    At any other time it does so at once, and so does a second Ctrl-C. Not so a second SIGTERM, as impatient schedulers
    send, nor any under torchrun, which sends one of its own to each process behind that of a terminal: they end by
    SIGKILL whoever takes too long. What is ignored stays ignored. Outside the context signals do what they always did.
    """

    def __init__(self, says: str = "") -> None:
        """`says`: what to tell a person on standard error as the first signal is noted."""
        self.asked = False
        self._says = says
        self._is_held = False
        self._number: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for each in _ENDING:
            before = signal.getsignal(each)
            if before not in (None, signal.SIG_IGN):
                self._before[each] = before
                signal.signal(each, self._met)
        return self

    def __exit__(self, *failure: object) -> None:
        for each, before in self._before.items():
            if signal.getsignal(each) == self._met:  # and not what a handler put there as it ended the program
                signal.signal(each, before)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Where it ends without an error and `asked` is set, by a signal or by who heard of another process's, so does
        the program: by KeyboardInterrupt, or by what the signal did before.
        """
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
        if self.asked:
            self._end(self._number, None)

    def _met(self, number: int, frame: FrameType | None) -> None:
        is_alone = variable_number("WORLD_SIZE", 1) == 1
        if not self._is_held or (self.asked and is_alone and number == signal.SIGINT):
            self._end(number, frame)
        elif not self.asked:
            self.asked, self._number = True, number
            if self._says:
                with suppress(OSError):  # of a terminal that is gone
                    os.write(2, f"\n{self._says}\n".encode())  # print might be interrupted within itself

    def _end(self, number: int | None, frame: FrameType | None) -> NoReturn:
        before = None if number is None else self._before.get(number)
        if callable(before):
            before(number, frame)
        elif before == signal.SIG_DFL and number is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        raise KeyboardInterrupt

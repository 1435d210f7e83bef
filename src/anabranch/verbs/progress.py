"""A bar for whatever takes longer than a second."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress


@contextmanager
def progress_bar(what: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar on standard error with rate and time left; call what it gives once for each picture."""
    bar = _bar()
    with bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


@contextmanager
def counter(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """How many are done so far, of how many, on standard error if that is a terminal; call what it gives with it."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    bar = _bar()
    with bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


def _bar() -> Progress:
    """What is printed meanwhile stands above it, unless it goes into a file, where it would be lacking."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    redirected = sys.stdout is not None and sys.stdout.isatty()
    return Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=redirected)

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

from anabranch import cli


class Done(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def anabranch(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """The command line, run in this process."""

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["anabranch", *map(str, arguments)])
        with pytest.raises(SystemExit) as exited:
            cli.main()
        out, err = capsys.readouterr()
        return Done(int(exited.value.code or 0), out, err)

    return run

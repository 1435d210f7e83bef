"""The command line: one verb, one short function.

A verb imports what it needs inside its function, so that `--help` and `list` wait for nothing. It raises
`anabranch.Error` for what the user can mend; `main` turns that into one line and an exit status. Click and not typer:
typer validates each argument through pydantic, which alone takes longer than `list` may.
"""

from __future__ import annotations

import io
import os
import signal
import sys

import click

from anabranch.cli import answers, learning, zoo
from anabranch.errors import Error
from anabranch.screen import spelt
from anabranch.version import VERSION


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(VERSION, message="anabranch %(version)s")
def app() -> None:
    """ResNeXt, SE-ResNet, SENet and Res2Net classifiers: from any checkpoint or a folder of photos to fast answers."""


for _command in (
    *(zoo.list_, zoo.show, zoo.fetch, zoo.identify, zoo.convert),
    *(answers.classify, answers.evaluate, answers.agree, answers.export),
    *(learning.train, learning.shards, learning.split, learning.duplicates),
):
    app.add_command(_command)


# The second where a terminal is closed, and not on Windows
_ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


def _end(number: int, _: object) -> None:
    """What is half written is taken away, which a second signal does not stop."""
    for each in _ENDING:
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


def main() -> None:
    """Entry point. Exit status 0; 1: it failed; 2: it was asked wrongly; 130: interrupted; 129, 143: ended."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who called, with `>&-`
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name may be no text at all
    for each in _ENDING:
        if signal.getsignal(each) == signal.SIG_DFL:  # and not what nohup made of it
            signal.signal(each, _end)
    try:
        sys.exit(app(standalone_mode=False))
    except Error as error:
        print("\n".join(map(spelt, f"error: {error}".split("\n"))), file=sys.stderr)
        sys.exit(error.exit_status)
    except OSError as error:  # a full disk, a path that may not be read or written
        print(spelt(f"error: {error.filename or 'input or output'}: {error.strerror or error}"), file=sys.stderr)
        sys.exit(1)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)

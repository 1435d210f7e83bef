"""Every error a user can meet. Each message says what was met, what was wanted, and what to do.

Error                     the root: `except anabranch.Error` catches all of these
├── UsageError            it was asked wrongly (exit status 2)
│   ├── UnknownName       a name that nothing here carries; the nearest ones are listed
│   ├── ArchError         an architecture whose numbers do not fit together
│   └── RecipeError       a recipe or a `--set` that is not understood
├── MissingExtra          an optional part is not installed; the message holds the pip command
├── ImageError            a file that does not hold one readable picture
├── DatasetError          a labelled set that cannot be read, or labels that contradict the model
├── CheckpointError       a weights or training file that is damaged or not of a kind that is read here
│   └── WeightsMismatch   tensors that are not the net's: missing, left over or misshapen ones are listed
├── FetchError            a published file that cannot be had, or is not the one that was published
├── CatalogueError        a file of the catalogue that breaks the catalogue's rules
├── ArtefactError         an artefact folder that is damaged, incomplete or newer than this version
└── ExportError           an export whose answers are too far from the net's
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from types import ModuleType


class Error(Exception):
    """A user's mistake or a damaged input, told in one sentence. `exit_status` is the command line's."""

    exit_status = 1


class UsageError(Error):
    exit_status = 2


class UnknownName(UsageError):
    pass


class ArchError(UsageError):
    pass


class RecipeError(UsageError):
    pass


class MissingExtra(Error):
    pass


class ImageError(Error):
    pass


class DatasetError(Error):
    pass


class CheckpointError(Error):
    pass


class WeightsMismatch(CheckpointError):
    pass


class FetchError(Error):
    pass


class CatalogueError(Error):
    pass


class ArtefactError(Error):
    pass


class ExportError(Error):
    pass


def shown(name: object) -> str:
    """A name from a file as a person may see it: short, and what does not print, or turns text around, spelt out."""
    return repr(str(name)[:80])[1:-1]


def nearest(name: str, known: Iterable[str], *, count: int = 3) -> list[str]:
    """The `count` known names most like `name`, best first, whatever their case."""
    import difflib  # nobody waits for it who spells well

    spelled = {candidate.lower(): candidate for candidate in known}
    found = difflib.get_close_matches(name.lower(), spelled, n=count, cutoff=0.0)
    return [spelled[candidate] for candidate in found]


def need(module: str, *, extra: str) -> ModuleType:
    """Import an optional module, or say in one sentence how to install it. Raises MissingExtra."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingExtra(
            f"this needs {module.split('.')[0]}, which is not installed: pip install 'anabranch[{extra}]'"
        ) from None

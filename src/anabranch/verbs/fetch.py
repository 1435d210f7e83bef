"""`anabranch fetch`: the published files of some weights, verified, in the cache."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from anabranch.catalogue.facts import HUB, Weights
from anabranch.catalogue.find import find, weights_of
from anabranch.errors import UsageError
from anabranch.fetch import Fetched, FetchError, Progress, Report, fetch
from anabranch.fetch.places import MIRROR
from anabranch.screen import bold, print_json

if TYPE_CHECKING:
    from rich.progress import ProgressColumn


def run(names: Sequence[str], *, verify: bool, json: bool) -> int:
    """Print where each file lies and return the exit status: 1 where one could not be had, or verified as was asked."""
    wanted = {weights.name: weights for weights in map(meant, names)}  # each once
    rows: list[dict[str, Any]] = []
    status = 0
    for weights in wanted.values():
        try:
            fetched = bring(weights, verify=verify)
        except FetchError as error:
            print(f"error: {error}", file=sys.stderr)
            rows.append({"name": weights.name, "error": str(error)})
            status = 1
            continue
        row = _as_json(weights, fetched)
        rows.append(row)
        if verify and not fetched.is_verified:
            row["error"] = _unverified(weights, fetched)
            print(f"error: {weights.name}: {row['error']}", file=sys.stderr)
            status = 1
        if not json:
            print(f"{bold(weights.name)}\n  {fetched.path}\n  {fetched.size_bytes:,} bytes; {fetched.verified}")
    if json:
        print_json(rows)
    return status


def bring(weights: Weights, *, verify: bool = False) -> Fetched:
    """Fetch, with a warning of a licence that forbids commercial use and a progress bar. Raises FetchError."""
    if weights.non_commercial:
        print(f"warning: {weights.name} is under {weights.licence}, which forbids commercial use", file=sys.stderr)
    with _shown(weights.name) as report:
        return fetch(weights, verify=verify, report=report)


def meant(name: str) -> Weights:
    """The weights called `name`. Raises UnknownName, and UsageError where it leaves open which weights are meant."""
    found = find(name)
    if found.weights is not None:
        return found.weights
    known = weights_of(found.architecture)
    if not known:
        raise UsageError(f"{name} is an architecture of which no published weights are known; train your own")
    if len(known) > 1:
        listed = ", ".join(f"{weights.name} ({weights.licence})" for weights in known)
        raise UsageError(f"{name} is an architecture with several sets of weights; say which of them: {listed}")
    print(f"{name} is an architecture; {known[0].name} are its only weights", file=sys.stderr)
    return known[0]


@contextmanager
def _shown(name: str) -> Iterator[Report]:
    """A report that says in a line on standard error why it takes longer, and draws a bar where a person watches."""
    if not sys.stderr.isatty():
        yield lambda progress: _tell(name, progress)
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(*_columns(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=None)

        def report(progress: Progress) -> None:
            _tell(name, progress)  # which appears above the bar
            if progress.doing in ("downloading", "checking"):
                text = f"{progress.doing} {name}"
                bar.update(task, description=text, completed=progress.done_bytes, total=progress.total_bytes)

        yield report


def _columns() -> list[ProgressColumn]:
    """What is being done, how far, how fast and how long still, in one line of 80 characters: the name gives way."""
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.table import Column

    whole = Column(no_wrap=True)
    return [
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
        BarColumn(bar_width=12),
        DownloadColumn(table_column=whole),
        TransferSpeedColumn(table_column=whole),
        TimeRemainingColumn(table_column=whole),
    ]


def _unverified(weights: Weights, fetched: Fetched) -> str:
    elsewhere = any(url.startswith(HUB) or weights.sha256_of(url) for url in weights.urls)
    otherwise = f", or remove {fetched.path} and fetch it without {MIRROR}" if elsewhere else ""
    return (
        f"cannot be verified, for {fetched.doubt}; it is as it was kept on {fetched.date[:10]}; "
        f"compare its SHA-256, {fetched.sha256}, with one that you trust{otherwise}"
    )


def _tell(name: str, progress: Progress) -> None:
    if progress.doing == "waiting":
        print(f"{name}: waiting for another process, which fetches it too", file=sys.stderr)
    elif progress.doing == "retrying":
        print(f"{name}: {progress.why}", file=sys.stderr)


def _as_json(weights: Weights, fetched: Fetched) -> dict[str, Any]:
    return {
        "name": weights.name,
        "path": str(fetched.path),
        "url": fetched.url,
        "size_bytes": fetched.size_bytes,
        "sha256": fetched.sha256,
        "verified": fetched.verified,
        "licence": weights.licence,
        "non_commercial": weights.non_commercial,
    }

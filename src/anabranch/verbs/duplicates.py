"""`anabranch duplicates`: pictures that occur more than once in a set, or in two sets that must share none."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TextIO

from anabranch.disk import replacing_file
from anabranch.errors import UsageError
from anabranch.images.duplicates import Found, Group, find_duplicates
from anabranch.images.labelled import Labelled, open_labelled, open_pictures
from anabranch.images.lists import holds_several
from anabranch.screen import csv_output, open_csv, print_json, spelt
from anabranch.verbs.progress import progress_bar

_SHOWN = 10  # groups and pairs each, and pictures of a group


def run(
    data: str,
    other: str | None,
    *,
    split: str | None,
    other_split: str | None,
    labels: str | None,
    other_labels: str | None,
    radius: int | None,
    json: bool,
    csv_file: str | None,
) -> int:
    """Print what is the same and what is alike; exit status 1 where two sets share pictures, or one cannot be read.

    `other_split` without `other` compares two splits of one folder. radius: None for equal pixels alone. csv_file:
    where every match is written, "-" for standard output in place of the text.
    """
    if json and csv_file == "-":
        raise UsageError("--json and --csv - would both write to standard output; give --csv a file")
    if other is None and other_split is None and other_labels is not None:
        raise UsageError("--other-labels are those of a second set; give OTHER, or --other-split")
    first = _open(data, split, labels)
    two = other is not None or other_split is not None
    second = _open(other or data, other_split, other_labels) if two else None
    total = len(first) + (len(second) if second is not None else 0)
    with progress_bar("comparing", total) if sys.stderr.isatty() else nullcontext(lambda: None) as advance:
        found = find_duplicates(first, second, radius=radius, report=advance)
    if csv_file == "-":
        _write_csv(found, csv_output())
    elif csv_file is not None:
        with _opened(Path(csv_file)) as file:
            _write_csv(found, file)
    if json:
        print_json(_as_json(found))
    elif csv_file != "-":
        _print_found(found)
    for _, reason in found.unreadable[:_SHOWN]:
        print(f"error: {spelt(reason)}", file=sys.stderr)
    if len(found.unreadable) > _SHOWN:
        print(f"error: {len(found.unreadable) - _SHOWN} more could not be read; --json names them", file=sys.stderr)
    return 1 if found.unreadable or (second is not None and found.num_met) else 0


def _open(path: str, split: str | None, labels: str | None) -> Labelled:
    """A flat folder does without labels."""
    if labels is None:
        return open_pictures(path, split=split)
    return open_labelled(Path(path), split=split, labels=Path(labels), multi_label=holds_several(Path(labels)))


def _print_found(found: Found) -> None:
    same = [group for group in found.groups if group.kind == "same"]
    alike = [group for group in found.groups if group.kind == "alike"]
    if found.num_other is not None:
        verdict = f"{found.num_met} of the second set's {found.num_other} pictures are in the first too"
        none = f"the sets share no pictures: none of {found.num_pictures} is among the second set's {found.num_other}"
        print(f"the sets share pictures: {verdict}" if found.num_met else none)
    else:
        print(f"{found.num_met} of {found.num_pictures} pictures are like another one")
    for title, groups in (("of equal pixels", same), ("of equal hash, but of unequal pixels", alike)):
        if groups:
            print(f"\n{len(groups)} {'group' if len(groups) == 1 else 'groups'} {title}")
            _print_some([_told(group) for group in groups])
    if found.pairs:
        print(f"\n{len(found.pairs)} {'pair' if len(found.pairs) == 1 else 'pairs'} of hashes that nearly agree")
        _print_some(
            [
                f"{pair.distance} of 64 bits apart{_differ(pair.labels_differ)}: {pair.first}  {pair.second}"
                for pair in found.pairs
            ]
        )


def _print_some(lines: list[str]) -> None:
    for line in lines[:_SHOWN]:
        print(f"  {spelt(line)}")
    if len(lines) > _SHOWN:
        print(f"  and {len(lines) - _SHOWN} more; --csv and --json list them all")


def _told(group: Group) -> str:
    names = [", ".join(side[:_SHOWN]) for side in (group.first, group.second) if side]
    left = sum(max(0, len(side) - _SHOWN) for side in (group.first, group.second))
    more = f" and {left} more" if left else ""
    count = len(group.first) + len(group.second)
    return f"{count} pictures{_differ(group.labels_differ)}: {'  |  '.join(names)}{more}"


def _differ(labels_differ: bool) -> str:
    return ", LABELS DIFFER" if labels_differ else ""


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """A file that is there whole or not at all; what is no plain file, such as a pipe, is written to as it is.

    What is no text in a name is written with backslashes. Raises CheckpointError where it cannot be written.
    """
    plain = path.is_file() or not path.exists()
    with (
        replacing_file(path.resolve()) if plain else nullcontext(path) as place,
        open_csv(place, "w") as file,
    ):
        yield file


def _write_csv(found: Found, file: TextIO) -> None:
    """A line a picture; those of one group, or the two of a pair, have one number."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["group", "kind", "distance", "set", "picture", "labels_differ"])
    for number, (kind, distance, pictures, differ) in enumerate(_rows(found)):
        writer.writerows([number, kind, distance, side, name, int(differ)] for side, name in pictures)


def _rows(found: Found) -> Iterator[tuple[str, int, list[tuple[str, str]], bool]]:
    """Kind, distance, and of each picture its set and name."""
    for group in found.groups:
        sides = [("first", name) for name in group.first] + [("second", name) for name in group.second]
        yield group.kind, 0, sides, group.labels_differ
    for pair in found.pairs:
        second = "second" if found.num_other is not None else "first"
        yield "near", pair.distance, [("first", pair.first), (second, pair.second)], pair.labels_differ


def _as_json(found: Found) -> dict[str, object]:
    return {
        "pictures": found.num_pictures,
        "other_pictures": found.num_other,
        "matched": found.num_met,
        "groups": [group._asdict() for group in found.groups],
        "pairs": [pair._asdict() for pair in found.pairs],
        "unreadable": [{"picture": name, "error": reason} for name, reason in found.unreadable],
    }

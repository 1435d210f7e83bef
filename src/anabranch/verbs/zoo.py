"""What `anabranch list` and `anabranch show` print."""

from __future__ import annotations

import sys

from anabranch.arch import arch
from anabranch.catalogue.facts import Claim, Weights
from anabranch.catalogue.find import Found, find, matching, names_of, weights_of
from anabranch.catalogue.index import counts, index
from anabranch.catalogue.summary import ORDERS, Row, as_json, misclaims, row, rows_of_weights, weights_as_json
from anabranch.catalogue.wanted import Wanted, narrowed
from anabranch.catalogue.words import described, described_file, file_name
from anabranch.screen import Column, bold, print_json, table, width_of, wrapped

# What stands beside a counted size or a licence, and what it says
DOUBTED = ("*", "a published figure differs by more than 1 % from the one counted here; 'anabranch show' says which")
FORBIDDEN = ("\N{DAGGER}", "its licence forbids commercial use")


def print_list(pattern: str | None, wanted: Wanted, *, nets: bool, sort: str, json: bool) -> None:
    """A line a set of weights, or with `nets` a line an architecture.

    Raises UnknownName where nothing fits the pattern, UsageError where nothing that fits it passes what is wanted.
    """
    fitting = matching(pattern)
    rows = narrowed([row(name) for name in fitting] if nets else rows_of_weights(fitting), wanted)
    if sort != "family":
        rows.sort(key=ORDERS[sort])
    if json:
        print_json([each.as_json() if nets else weights_as_json(each) for each in rows])
    elif nets:
        print("\n".join(_architectures_table(rows, fitting, width_of(sys.stdout))))
    else:
        print("\n".join(_weights_table(rows, width_of(sys.stdout))))


def _architectures_table(rows: list[Row], fitting: dict[str, list[str]], width: int | None) -> list[str]:
    columns = [Column("name"), Column("params M", right=True), Column("macs G", right=True), Column("px", right=True)]
    # what led to an architecture whose own name does not fit the pattern
    others = {name: [] if name in names else names for name, names in fitting.items()}
    by_alias = any(others.values())
    columns += [Column("top-1"), Column("found as" if by_alias else "highest by")]
    cells = []
    for each in rows:
        claimed = each.claimed()
        last = ", ".join(others[each.name]) if by_alias else claimed[-1][1].tag if claimed else ""
        cells.append((each.name, *_sizes(each), _range([top1 for top1, *_ in claimed]), last))
    title, *lines = table(columns, cells, width=width)
    return [bold(title), *lines]


def _weights_table(rows: list[Row], width: int | None) -> list[str]:
    """One line each; where names leave too little room for the rest, each stands on a line of its own."""
    figures = [Column(title, right=True) for title in ("params M ", "macs G ")]
    columns = [*figures, Column("top-1"), Column("top-5"), Column("licence"), Column("in")]
    names = [each.weights[0].name for each in rows]
    cited = list(dict.fromkeys(claim.document for each in rows for claim in each.weights[0].claims))
    cells = [_weights_cells(each, cited) for each in rows]
    if width is None or width > max(map(len, names)) + 76:
        all_cells = [(name, *rest) for name, rest in zip(names, cells, strict=True)]
        title, *lines = table([Column("name"), *columns], all_cells, width=width)
    else:
        title, *sizes = table(columns, cells, width=width, indent=2)
        lines = [line for pair in zip(names, sizes, strict=True) for line in pair]
    said = "\n".join(lines)
    notes = [wrapped(mark, text, width=width, label_width=2) for mark, text in (DOUBTED, FORBIDDEN) if mark in said]
    notes += [
        wrapped(f"{number:>4}", str(index().documents[key]), width=width, label_width=5)
        for number, key in enumerate(cited, start=1)
    ]
    return [bold(title), *lines, "", *(line for note in notes for line in note)]


def _weights_cells(each: Row, cited: list[str]) -> tuple[str, ...]:
    [entry] = each.weights
    wrong = {field for claim in entry.claims for field in misclaims(entry, claim)}
    params, macs, _ = _sizes(each)
    marks = [DOUBTED[0] if wrong & fields else " " for fields in ({"params_m"}, {"flops_g", "macs_g"})]
    top1 = [claim.top1 for claim in entry.claims if claim.top1 is not None]
    top5 = [claim.top5 for claim in entry.claims if claim.top5 is not None]
    where = ",".join(str(number) for number in sorted({cited.index(claim.document) + 1 for claim in entry.claims}))
    return params + marks[0], macs + marks[1], _range(top1), _range(top5), _licence(entry), where


def _licence(entry: Weights) -> str:
    return f"{entry.licence} {FORBIDDEN[0]}" if entry.non_commercial else entry.licence


def _sizes(each: Row) -> tuple[str, str, str]:
    counted = each.counted
    return f"{counted.params / 1e6:.2f}", f"{counted.macs / 1e9:.2f}", str(counted.input_px)


def _range(figures: list[float]) -> str:
    """The lowest and the highest, in percent."""
    if not figures:
        return ""
    low, high = f"{min(figures):.2f}", f"{max(figures):.2f}"
    return high if low == high else f"{low}\N{EN DASH}{high}"


def print_show(name: str, *, json: bool) -> None:
    """Raises UnknownName."""
    found = find(name)
    if json:
        print_json(as_json(found))
        return
    width = width_of(sys.stdout)
    cited = _cited(found)
    lines = [*_heading(found, width), *_files(found, width), *_names(found, width), *_claims(found, cited, width)]
    print("\n".join([*lines, *_homonyms(found, cited, width), *_documents(cited)]))


def _heading(found: Found, width: int | None) -> list[str]:
    lines = [bold(found.name)]
    if found.weights and found.name != found.weights.name:
        lines += wrapped("is", f"{found.weights.name}, weights published by {found.weights.publisher}", width=width)
    elif found.weights:
        lines += wrapped("is", f"weights of {found.architecture}, published by {found.weights.publisher}", width=width)
    elif found.name != found.architecture:
        lines += wrapped("is", found.architecture, width=width)
    for field, words in described(arch(found.architecture)):
        lines += wrapped(field, words, width=width)
    counted = counts()[found.architecture]
    figures = f"{counted.params:,} parameters, {counted.macs:,} multiply-accumulates"
    lines += wrapped("counted", f"{figures} at {counted.input_px} px, {counted.num_classes:,} classes", width=width)
    return lines


def _files(found: Found, width: int | None) -> list[str]:
    if found.weights:
        told = described_file(found.weights)
        return ["", bold("File"), *(line for each in told for line in wrapped(*each, width=width))]
    shown = _shown(found)
    if not shown:
        return []
    columns = [Column("weights"), Column("px", right=True), Column("licence"), Column("file")]
    cells = [(entry.tag, str(entry.input.crop_px), _licence(entry), file_name(entry)) for entry in shown]
    lines = table(columns, cells, width=width, indent=2)
    if any(entry.non_commercial for entry in shown):
        lines += wrapped(*FORBIDDEN, width=width, label_width=2)
    more = f"'anabranch show {shown[0].name}' says where that file lies and what input it wants"
    return ["", bold("Files"), *lines, *wrapped("", more, width=width, label_width=0)]


def _names(found: Found, width: int | None) -> list[str]:
    names = found.weights.aliases if found.weights else names_of(found.architecture)
    others = [name for name in names if name != found.name]
    return ["", bold("Names"), *wrapped("", ", ".join(others), width=width, label_width=0)] if others else []


def _claims(found: Found, cited: list[str], width: int | None) -> list[str]:
    claims = [(entry, claim) for entry in _shown(found) for claim in entry.claims]
    if not claims:
        return ["", "Nobody's claims about it are in the catalogue."]
    return ["", bold("Published, not measured here"), *_claim_lines(claims, cited, width)]


def _homonyms(found: Found, cited: list[str], width: int | None) -> list[str]:
    lines = []
    for entry in found.homonyms:
        lines += ["", bold(f"Another net of the same name: {entry.publisher}'s {found.name}")]
        what = "another function" if entry.architecture != found.architecture else "other weights of the same function"
        text = f"{entry.publisher} prints {found.name!r} for {what}, which here is called {entry.name}."
        lines += wrapped("", text, width=width, label_width=0)
        claims = [(entry, claim) for claim in entry.claims if claim.printed == found.name]
        lines += _claim_lines(claims, cited, width) if claims else []
    return lines


def _claim_lines(claims: list[tuple[Weights, Claim]], cited: list[str], width: int | None) -> list[str]:
    titles = ("px", "top-1", "top-5", "params M", "flops G", "macs G")
    columns = [Column("weights"), *(Column(title, right=True) for title in titles), Column("in")]
    wrong = [misclaims(entry, claim) for entry, claim in claims]
    figures = []
    for field in ("top1", "top5", "params_m", "flops_g", "macs_g"):
        texts = _at_the_point([getattr(claim, field) for _, claim in claims])
        if any(field in each for each in wrong):
            texts = [text + ("*" if field in each else " ") for text, each in zip(texts, wrong, strict=True)]
        figures.append(texts)
    whole = [
        [entry.tag for entry, _ in claims],
        [str(claim.input_px) for _, claim in claims],
        *figures,
        [f"[{cited.index(claim.document) + 1}]" for _, claim in claims],
    ]
    told = [i for i, cells in enumerate(whole) if any(cell.strip() for cell in cells)]
    rows = zip(*(whole[i] for i in told), strict=True)
    lines = table([columns[i] for i in told], rows, width=width, indent=2)
    notes = dict.fromkeys(note for each in wrong for note in each.values())
    return [*lines, *(line for note in notes for line in wrapped("*", note, width=width, label_width=2))]


def _at_the_point(figures: list[float | None]) -> list[str]:
    """At most three decimals, padded so that the points stand in one column."""
    texts = ["" if figure is None else repr(round(float(figure), 3)) for figure in figures]
    decimals = max(len(text.partition(".")[2]) for text in texts)
    return [text + " " * (decimals - len(text.partition(".")[2])) for text in texts]


def _cited(found: Found) -> list[str]:
    """Keys of the documents whose claims are shown, in the order of their numbers."""
    claims = [claim for entry in _shown(found) for claim in entry.claims]
    claims += [claim for entry in found.homonyms for claim in entry.claims if claim.printed == found.name]
    return list(dict.fromkeys(claim.document for claim in claims))


def _documents(cited: list[str]) -> list[str]:
    lines = []
    for number, key in enumerate(cited, start=1):
        document = index().documents[key]
        lines.append(f"{f'[{number}]':>6} {document}")
        lines += [f"       {document.url}"] if document.url else []
    return ["", *lines]


def _shown(found: Found) -> list[Weights]:
    return [found.weights] if found.weights else weights_of(found.architecture)

"""What `anabranch list` and `anabranch show` print."""

from __future__ import annotations

import sys

from anabranch.arch import arch
from anabranch.catalogue.facts import Claim, Weights
from anabranch.catalogue.find import Found, find, matching, names_of, weights_of
from anabranch.catalogue.index import counts, index
from anabranch.catalogue.summary import ORDERS, Row, as_json, misclaims, row
from anabranch.catalogue.words import described
from anabranch.screen import Column, bold, print_json, table, width_of, wrapped


def print_list(pattern: str | None, *, sort: str, json: bool) -> None:
    """Raises UnknownName where nothing fits the pattern."""
    fitting = matching(pattern)
    rows = [row(name) for name in fitting]
    if sort != "family":
        rows.sort(key=ORDERS[sort])
    if json:
        print_json([each.as_json() for each in rows])
        return
    columns = [Column("name"), Column("params M", right=True), Column("macs G", right=True), Column("px", right=True)]
    # what led to an architecture whose own name does not fit the pattern
    others = {name: [] if name in names else names for name, names in fitting.items()}
    by_alias = any(others.values())
    columns += [Column("top-1"), Column("found as" if by_alias else "highest by")]
    cells = (_cells(each, others[each.name] if by_alias else None) for each in rows)
    title, *lines = table(columns, cells, width=width_of(sys.stdout))
    print("\n".join([bold(title), *lines]))


def _cells(each: Row, others: list[str] | None) -> tuple[str, ...]:
    claimed = each.claimed()
    best = claimed[-1][1].tag if claimed else ""
    return (
        each.name,
        f"{each.counted.params / 1e6:.2f}",
        f"{each.counted.macs / 1e9:.2f}",
        str(each.counted.input_px),
        _range(claimed[0][0], claimed[-1][0]) if claimed else "",
        best if others is None else ", ".join(others),
    )


def _range(lowest: float, highest: float) -> str:
    low, high = f"{lowest:.2f}", f"{highest:.2f}"
    return high if low == high else f"{low}\N{EN DASH}{high}"


def print_show(name: str, *, json: bool) -> None:
    """Raises UnknownName."""
    found = find(name)
    if json:
        print_json(as_json(found))
        return
    width = width_of(sys.stdout)
    cited = _cited(found)
    lines = [*_heading(found, width), *_names(found, width), *_claims(found, cited, width)]
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
    figures = [
        _at_the_point([getattr(claim, field) for _, claim in claims])
        for field in ("top1", "top5", "params_m", "flops_g", "macs_g")
    ]
    wrong = [misclaims(entry, claim) for entry, claim in claims]
    if any(wrong):
        figures[2] = [text + ("*" if note else " ") for text, note in zip(figures[2], wrong, strict=True)]
    whole = [
        [entry.tag for entry, _ in claims],
        [str(claim.input_px) for _, claim in claims],
        *figures,
        [f"[{cited.index(claim.document) + 1}]" for _, claim in claims],
    ]
    told = [i for i, cells in enumerate(whole) if any(cell.strip() for cell in cells)]
    rows = zip(*(whole[i] for i in told), strict=True)
    lines = table([columns[i] for i in told], rows, width=width, indent=2)
    notes = dict.fromkeys(note for note in wrong if note)
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

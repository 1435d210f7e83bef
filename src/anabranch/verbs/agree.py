"""`anabranch agree`: how far one model's answers are from another's."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

from anabranch.agree import Comparison, compare
from anabranch.images.labelled import open_pictures
from anabranch.runtimes.predictor import Predictor
from anabranch.screen import print_json, spelt
from anabranch.verbs.models import open_as
from anabranch.verbs.progress import counter

_SHOWN = 10  # flips that are named


def run(ours: str, reference: str, data: str, *, split: str | None, max_flips: float | None, json: bool) -> int:
    """Print the comparison and give the exit status: 1 where more top-1 answers differ than `max_flips` percent."""
    a, b = open_as(ours), open_as(reference)
    pictures = open_pictures(Path(data), split=split)
    with counter("pictures answered:", 2 * len(pictures)) as report:
        met = compare(a, b, pictures, report=report)
    flips = 100 * met.agreement.top1_flips / met.agreement.num_pictures
    if json:
        print_json({"a": _told(a), "b": _told(b), "data": data, "flips_percent": round(flips, 4), **asdict(met)})
    else:
        print(f"{_named(a)} against {_named(b)}, {met.agreement.num_pictures:,} pictures of {data}")
        print("\n".join(_lines(met, flips)))
    for _, reason in met.unreadable:
        print(f"error: {spelt(reason)}", file=sys.stderr)
    return 1 if met.unreadable or (max_flips is not None and flips > max_flips) else 0


def _lines(met: Comparison, flips: float) -> list[str]:
    found = met.agreement
    mean, largest = f"{found.mean_abs:.3g}", f"{found.largest_logit:.3g}"
    return [
        f"  logits  at most {found.max_abs:.3g} apart, {mean} in the mean, of up to {largest}",
        f"  top-1   {found.top1_flips:,} answers differ, {flips:.2f} %",
        *(
            spelt(f"    {flip.name}: {flip.ours.label} {flip.ours.probability:.1%}, ")
            + spelt(f"not {flip.reference.label} {flip.reference.probability:.1%}")
            for flip in met.flips[:_SHOWN]
        ),
        *([f"    and {len(met.flips) - _SHOWN:,} more; --json names them"] if len(met.flips) > _SHOWN else []),
    ]


def _told(predictor: Predictor) -> dict[str, str]:
    card = predictor.card
    return {"model": card.weights.name, "weights_sha256": card.weights.sha256, "engine": predictor.engine}


def _named(predictor: Predictor) -> str:
    return f"{spelt(predictor.card.weights.name)} ({predictor.engine})"

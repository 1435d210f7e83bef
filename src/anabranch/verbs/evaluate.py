"""`anabranch evaluate`: how often a model is right on a labelled set."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

from anabranch.evaluate import MultiLabelScore, Score, doubtful_match, evaluate, evaluate_multi_label
from anabranch.images.files import told_ignored
from anabranch.images.labelled import Labelled, LabelledFiles, open_labelled, upright
from anabranch.record import record
from anabranch.runtimes.predictor import Predictor
from anabranch.screen import print_json, spelt
from anabranch.verbs.progress import progress_bar

_SHOWN = 5  # unreadable pictures that are named


def run(
    predictor: Predictor,
    data: str,
    *,
    split: str | None,
    labels: str | None,
    rotate_exif: bool,
    json: bool,
    results: str | None,
) -> int:
    """Print the score and return the exit status: 1 where a picture could not be read."""
    several = predictor.card.multi_label
    pictures = open_labelled(Path(data), split=split, labels=Path(labels) if labels else None, multi_label=several)
    if rotate_exif:
        pictures = upright(pictures)
    watched = sys.stderr.isatty()
    with progress_bar("evaluating", len(pictures)) if watched else nullcontext(lambda: None) as advance:
        measured = evaluate_multi_label if several else evaluate
        score = measured(predictor, pictures, report=lambda done: advance())
    for warning in _warnings(pictures, score, predictor):
        print(f"warning: {data}: {warning}", file=sys.stderr)
    if json:
        print_json(_as_json(score, predictor, data))
    else:
        _print_score(score, predictor)
    if results is not None:
        record(Path(results), {"what": "accuracy", **_as_json(score, predictor, data)})
    for _, reason in score.unreadable[:_SHOWN]:
        print(f"error: {spelt(reason)}", file=sys.stderr)
    if len(score.unreadable) > _SHOWN:
        print(f"error: {len(score.unreadable) - _SHOWN} more could not be read; --json names them", file=sys.stderr)
    return 1 if score.unreadable else 0


def _warnings(pictures: Labelled, score: Score | MultiLabelScore, predictor: Predictor) -> Iterator[str]:
    if isinstance(pictures, LabelledFiles) and pictures.ignored:
        yield told_ignored(pictures.ignored)
    if doubt := doubtful_match(pictures.class_names, predictor.card.labels, score.matched_by):
        yield doubt


def score_lines(score: Score | MultiLabelScore) -> tuple[str, str]:
    """The two figures of a score."""
    if isinstance(score, MultiLabelScore):
        return f"  mAP   {score.mean_average_precision:6.2f} %", f"  F1    {score.f1:6.2f} %"
    low, high = score.top1_interval
    return f"  top-1 {score.top1:6.2f} %   95 % interval {low:.2f} to {high:.2f}", f"  top-5 {score.top5:6.2f} %"


def _print_score(score: Score | MultiLabelScore, predictor: Predictor) -> None:
    name, pictures = predictor.card.weights.name, f"{score.num_pictures} pictures"
    print(f"{spelt(name)} on {pictures} by {predictor.engine}, classes matched by {score.matched_by}")
    print("\n".join(score_lines(score)))
    print(f"  {score.num_pictures / score.seconds:.0f} pictures/s, decoding included")


def _as_json(score: Score | MultiLabelScore, predictor: Predictor, data: str) -> dict[str, object]:
    return {
        "model": predictor.card.weights.name,
        "weights_sha256": predictor.card.weights.sha256,
        "engine": predictor.engine,
        "data": data,
        "pictures": score.num_pictures,
        **_figures(score),
        "matched_by": score.matched_by,
        "unreadable": [{"picture": name, "error": reason} for name, reason in score.unreadable],
        "seconds": round(score.seconds, 3),
    }


def _figures(score: Score | MultiLabelScore) -> dict[str, object]:
    if isinstance(score, MultiLabelScore):
        return {"map": round(score.mean_average_precision, 4), "f1": round(score.f1, 4)}
    interval = [round(bound, 4) for bound in score.top1_interval]
    return {"top1": round(score.top1, 4), "top1_interval95": interval, "top5": round(score.top5, 4)}

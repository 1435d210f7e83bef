"""What papers define, written as they write it, to hold the faster code against."""

from __future__ import annotations


def average_precision(scores: list[float], shown: list[int]) -> float:
    """A picture at a time: of all that score at least as high, how many show the class; the mean of those that do."""
    precisions = []
    for score, is_shown in zip(scores, shown, strict=True):
        if is_shown:
            above = [other for mark, other in zip(scores, shown, strict=True) if mark >= score]
            precisions.append(sum(above) / len(above))
    return sum(precisions) / len(precisions)

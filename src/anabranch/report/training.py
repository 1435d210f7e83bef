"""The page of a training run: curves, confusions, classes, the worst pictures, in one file that asks for no other."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anabranch.disk import replacing_file
from anabranch.errors import ImageError, need
from anabranch.evaluate import MultiLabelScore, average_precisions
from anabranch.report.training_run import TrainingRun, read_run

PictureOf = Callable[[int], NDArray[np.uint8]]  # row of answers.npz -> its picture, (H, W, 3)

_MATRIX_CLASSES = 30  # up to which the confusion matrix fits a screen
_PAIRS = 30  # of classes that are confused most, where it does not
_WORST = 24
_THUMBNAIL_BYTES = 200_000  # of all of them, as they stand in the page
_THUMBNAIL_PX = (128, 96, 80, 64, 48, 32)  # the first that fits; a small picture stays as it is
_SMALL_PX = 64  # a picture below it is enlarged with its pixels showing
_NAME_LETTERS = 40
_NAMED = 3  # classes below a picture that shows several
_SHADES = 9

# Every style stands here, because the page's policy lets no other in: neither attributes nor files.
_STYLE = (
    """
:root{color-scheme:light;font:15px/1.45 system-ui,sans-serif;color:#1b1b1b;background:#fff}
body{max-width:62rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2.2rem 0 .4rem}
p{margin:.3rem 0}.quiet,figcaption{color:#595959}
svg{width:100%;height:auto}svg text{font-family:system-ui,sans-serif}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th{font-weight:500;text-align:left}td,th{padding:.15rem .5rem;border-bottom:1px solid #e4e4e4}
td.n,th.n{text-align:right}
.matrix td{text-align:right;border:1px solid #fff;min-width:1.9rem;padding:.15rem .35rem}
.matrix th{border:0;white-space:nowrap}
.matrix thead th{writing-mode:vertical-rl;transform:rotate(180deg);padding:.35rem .15rem}
.gallery{display:flex;flex-wrap:wrap;gap:.9rem}figure{margin:0;width:9.2rem;overflow-wrap:anywhere;font-size:.85rem}
figure img{width:9.2rem;height:9.2rem;object-fit:contain;background:#f2f2f2;display:block}
img.small{image-rendering:pixelated}
"""
    + "".join(f".r{i}{{background:hsl(205 75% {100 - 5.5 * i:g}%)}}" for i in range(1, _SHADES + 1))
    + "".join(f".w{i}{{background:hsl(18 85% {100 - 5 * i:g}%)}}" for i in range(1, _SHADES + 1))
    + "\n"
)


def page(folder: Path, picture: PictureOf) -> Path:
    """Write report.html into the folder of a run that is done. `picture` gives the one of a row of answers.npz.

    A picture that cannot be read is named without being shown. Raises MissingExtra, OSError, and CheckpointError where
    the run's files are damaged or the page cannot be written.
    """
    need("matplotlib", extra="report")
    run = read_run(folder)
    if run.multi_label:
        parts = [_head(run), _curves(run), _worst(run, picture), _precisions(run)]
    else:
        parts = [_head(run), _curves(run), _confused(run), _worst(run, picture), _classes(run)]
    text = _document(str(run.recipe["name"]), "\n".join(parts))
    path = folder / "report.html"
    with replacing_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path


def _document(title: str, body: str) -> str:
    """The page, whose policy lets it load nothing and run nothing."""
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width">
<title>{_text(title)}</title>
<style>{_STYLE}</style>
<body>
{body}
</body>
</html>
"""


def _head(run: TrainingRun) -> str:
    met, last = run.score(), run.history[-1]
    ended = f"a weight decay of {last['weight_decay']:g}" if "tried" in last else run.made_of
    if isinstance(met, MultiLabelScore):
        figures = f"mAP <b>{met.mean_average_precision:.2f} %</b>; F1 {met.f1:.2f} %"
    else:
        low, high = met.top1_interval
        figures = f"top-1 <b>{met.top1:.2f} %</b>, 95 % interval {low:.2f} to {high:.2f}; top-5 {met.top5:.2f} %"
    return (
        f"<h1>{_text(run.recipe['name'])}</h1>\n"
        f"<p>{figures}; on {met.num_pictures:,} test pictures; {ended}</p>\n"
        f'<p class="quiet">expected: {_text(run.recipe["expect"])}</p>'
    )


def _curves(run: TrainingRun) -> str:
    """Loss and score over the epochs, or over the weight decays that a probe tried."""
    history, last = run.history, run.history[-1]
    if "tried" not in last:
        scores = {"top-1": "top1", "top-5": "top5"} if "top1" in last else {"mAP": "map", "F1": "f1"}
        losses: dict[str, dict[str, str]] = {"loss": {"training": "loss", "test": "test_loss"}}
        if run.recipe.get("distil"):  # lowered is the distance from a teacher, tested are the labels
            losses = {"distance from the teacher": {"": "loss"}, "loss on the test pictures": {"": "test_loss"}}
        panels = {
            **losses,
            "score on the test pictures, %": scores,
            "learning rate": {"": "lr"},
        }
        return f"<h2>Over the epochs</h2>\n{_drawn(history, 'epoch', panels)}"
    if not last["tried"]:  # a probe that was given one
        return ""
    of_probe = {"loss on held-out pictures": {"": "loss"}, "top-1 on held-out pictures, %": {"": "top1"}}
    return f"<h2>Over the weight decays</h2>\n{_drawn(last['tried'], 'weight_decay', of_probe)}"


def _drawn(points: Sequence[Mapping[str, Any]], along: str, panels: Mapping[str, Mapping[str, str]]) -> str:
    """Each panel's values of the points over that of `along`, drawn by matplotlib."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    looks = [{"color": "#0072b2", "linestyle": "-"}, {"color": "#d55e00", "linestyle": "--"}]
    dots = "o" if len(points) <= 40 else None
    drawn = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "anabranch", "font.size": 9}):
        figure = Figure(figsize=(10, 2.9), layout="constrained")
        for axes, (title, lines) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
            for look, (label, key) in zip(looks, lines.items(), strict=False):
                x, y = ([point[name] for point in points] for name in (along, key))
                axes.plot(x, y, marker=dots, markersize=3, label=label, **look)
            axes.set_title(title, fontsize=10)
            axes.set_xlabel(along.replace("_", " "))
            if along == "epoch":
                axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            else:
                axes.set_xscale("log")
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
            if len(lines) > 1:
                axes.legend(frameon=False)
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    shown = _inline(drawn.getvalue())
    return f'<div role="img" aria-label="{", ".join(panels)}">{shown}</div>'


def _inline(svg: str) -> str:
    """A drawing as a page may hold it whose policy forbids style attributes: each property an attribute of its own."""

    def attributes(found: re.Match[str]) -> str:
        properties = (each.partition(":") for each in found[1].split(";"))
        kept = ((name.strip(), value.strip()) for name, _, value in properties if name.strip() != "font-family")
        return "".join(f' {name}="{value}"' for name, value in kept)

    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    return re.sub(r' style="([^"]*)"', attributes, svg)


def _confused(run: TrainingRun) -> str:
    counted, names = run.confusions(), [_text(name) for name in run.class_names]
    if len(names) > _MATRIX_CLASSES:
        return _pairs(counted, names)
    titles = "".join(f'<th scope="col">{name}</th>' for name in names)
    rows = []
    for true, (name, row) in enumerate(zip(names, counted, strict=True)):
        shares = row / max(1, row.sum())
        cells = (
            f'<td class="{_shade(share, right=true == answered)}">{count or ""}</td>'
            for answered, (count, share) in enumerate(zip(row.tolist(), shares.tolist(), strict=True))
        )
        rows.append(f'<tr><th scope="row">{name}</th>{"".join(cells)}</tr>')
    table = f"<thead><tr><th></th>{titles}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return (
        "<h2>What was taken for what</h2>\n"
        '<p class="quiet">A row for each class, a column for each answer, in pictures</p>\n'
        f'<div class="wide"><table class="matrix">{table}</table></div>'
    )


def _pairs(counted: NDArray[np.int64], names: Sequence[str]) -> str:
    """The confusions met most often, of a set with too many classes for a matrix."""
    wrong = counted * (1 - np.eye(len(names), dtype=np.int64))
    most = np.argsort(-wrong, axis=None, kind="stable")[:_PAIRS]
    pairs = [divmod(int(place), len(names)) for place in most if wrong.flat[place]]
    rows = (
        [
            names[true],
            names[answered],
            f"{wrong[true, answered]:,}",
            _percent(wrong[true, answered], counted[true].sum()),
        ]
        for true, answered in pairs
    )
    titles = ["class", "answered", "pictures", "of the class"]
    return "<h2>What was taken for what most often</h2>\n" + _table(titles, rows, words=2)


def _classes(run: TrainingRun) -> str:
    counted = run.confusions()
    of_class, right, answers = counted.sum(1), counted.diagonal(), counted.sum(0)
    order = np.argsort(right / np.maximum(1, of_class), kind="stable")
    rows = (
        [
            _text(run.class_names[i]),
            f"{of_class[i]:,}",
            _percent(right[i], of_class[i]),
            _percent(right[i], answers[i]),
        ]
        for i in order
        if of_class[i]
    )
    titles = ["class", "pictures", "answered rightly", "of its answers right"]
    return "<h2>Classes, the worst first</h2>\n" + _table(titles, rows, words=1)


def _precisions(run: TrainingRun) -> str:
    """Of pictures that show several classes."""
    precisions, shown = average_precisions(run.logits, run.labels), run.labels.sum(0, dtype=np.int64)
    rows = (
        [_text(run.class_names[index]), f"{shown[index]:,}", f"{precisions[index]:.2f} %"]
        for index in np.argsort(precisions, kind="stable")
        if shown[index]
    )
    return "<h2>Classes, the worst first</h2>\n" + _table(["class", "pictures", "average precision"], rows, words=1)


def _worst(run: TrainingRun, picture: PictureOf) -> str:
    rows = np.argsort(-run.losses(), kind="stable")[:_WORST].tolist()
    said = _said_of_each if run.multi_label else _said
    figures = [
        f"<figure>{image}{said(run, row)}<figcaption>{_text(_end(run.names[row]))}</figcaption></figure>"
        for row, image in zip(rows, _thumbnails([_picture(picture, row) for row in rows]), strict=True)
    ]
    return (
        f"<h2>The {len(figures)} test pictures with the largest loss</h2>\n"
        '<p class="quiet">What was answered, what it is, and the probability that the net gave each</p>\n'
        f'<div class="gallery">{"".join(figures)}</div>'
    )


def _said(run: TrainingRun, row: int) -> str:
    true, answered = int(run.labels[row]), int(run.answered[row])
    other = "" if true == answered else f"<br>is {_likely(run, row, [true])}"
    return f"<b>{_likely(run, row, [answered])}</b>{other}"


def _said_of_each(run: TrainingRun, row: int) -> str:
    """Of a picture that may show several classes, those that were wrongly answered, and those that were missed."""
    answered, shown = run.logits[row] >= 0, run.labels[row] > 0
    wrong = _likely(run, row, np.flatnonzero(answered & ~shown).tolist()) or "nothing wrong"
    missed = _likely(run, row, np.flatnonzero(shown & ~answered).tolist()) or "nothing"
    return f"<b>{wrong}</b><br>missed {missed}"


def _likely(run: TrainingRun, row: int, classes: Sequence[int]) -> str:
    """The first few of the classes, with the probability that the net gave each."""
    certainty = run.probabilities(row)
    named = [f"{_text(run.class_names[each])} {100 * certainty[each]:.1f} %" for each in classes[:_NAMED]]
    return ", ".join(named) + (", ..." if len(classes) > _NAMED else "")


def _picture(picture: PictureOf, row: int) -> NDArray[np.uint8] | None:
    try:
        return picture(row)
    except ImageError:
        return None


def _thumbnails(pictures: Sequence[NDArray[np.uint8] | None]) -> list[str]:
    """An <img> for each, all of them as large as fits into the bytes allowed."""
    images: list[str] = []
    for side_px in _THUMBNAIL_PX:
        images = [_thumbnail(picture, side_px) for picture in pictures]
        if sum(map(len, images)) <= _THUMBNAIL_BYTES:
            break
    return images


def _thumbnail(picture: NDArray[np.uint8] | None, side_px: int) -> str:
    from PIL import Image

    if picture is None:
        return "<p>cannot be read</p>"
    image = Image.fromarray(picture)
    image.thumbnail((side_px, side_px))
    file = io.BytesIO()
    image.save(file, "png", optimize=True)
    small = ' class="small"' if max(picture.shape[:2]) < _SMALL_PX else ""
    return f'<img{small} alt="" src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}">'


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]], *, words: int) -> str:
    """Of cells that are HTML already: the first `words` columns hold words, the others numbers."""

    def line(cells: Sequence[str], tag: str) -> str:
        classes = ("" if column < words else ' class="n"' for column in range(len(cells)))
        return f"<tr>{''.join(f'<{tag}{c}>{cell}</{tag}>' for c, cell in zip(classes, cells, strict=True))}</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f'<div class="wide"><table><thead>{line(titles, "th")}</thead><tbody>{body}</tbody></table></div>'


def _shade(share: float, *, right: bool) -> str:
    """By the root, which lets a few wrong answers be seen beside many right ones."""
    return f"{'r' if right else 'w'}{round(math.sqrt(share) * _SHADES)}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f} %" if whole else "never"


def _end(name: str) -> str:
    """Of a long path the end, which tells pictures apart."""
    return name if len(name) <= _NAME_LETTERS else f"…{name[-_NAME_LETTERS:]}"


def _text(name: object) -> str:
    """A name from a file, its control codes spelt out, its characters as a page wants them."""
    plain = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in str(name))
    return html.escape(plain)

"""The page of a training run: curves, confusions, classes and the worst pictures, in one file that asks for no other.

Made of what the run left in its folder: history.jsonl, recipe.json, and answers.npz with logits (N, K), labels (N,),
the pictures' names (N,) and class_names (K,).
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import math
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anabranch.errors import CheckpointError, ImageError, need
from anabranch.evaluate import Score

PictureOf = Callable[[int], NDArray[np.uint8]]  # row of answers.npz -> its picture, (H, W, 3)

_MATRIX_CLASSES = 30  # up to which the confusion matrix fits a screen
_PAIRS = 30  # of classes that are confused most, where it does not
_WORST = 24
_THUMBNAIL_BYTES = 200_000  # of all of them, as they stand in the page
_THUMBNAIL_PX = (128, 96, 80, 64, 48, 32)  # the first that fits; a small picture stays as it is
_SMALL_PX = 64  # a picture below it is enlarged with its pixels showing
_NAME_LETTERS = 40
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


@dataclass(frozen=True, slots=True)
class _Run:
    recipe: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    logits: NDArray[np.float64]
    labels: NDArray[np.int64]
    names: Sequence[str]
    class_names: Sequence[str]

    @property
    def answered(self) -> NDArray[np.int64]:
        return np.asarray(self.logits.argmax(1))

    def score(self) -> Score:
        true_logits = np.take_along_axis(self.logits, self.labels[:, None], axis=1)
        return Score(
            num_pictures=len(self.labels),
            top1_right=int((self.answered == self.labels).sum()),
            top5_right=int(((self.logits > true_logits).sum(1) < 5).sum()),
            unreadable=(),
            matched_by="position",
            seconds=self.history[-1]["seconds"],
        )

    def confusions(self) -> NDArray[np.int64]:
        """(K, K) numbers of pictures: rows are their classes, columns what was answered."""
        counted = np.zeros((len(self.class_names),) * 2, np.int64)
        np.add.at(counted, (self.labels, self.answered), 1)
        return counted

    def losses(self) -> NDArray[np.float64]:
        """(N,): minus the logarithm of the probability of the true class."""
        return -self.log_probabilities()[np.arange(len(self.labels)), self.labels]

    def log_probabilities(self) -> NDArray[np.float64]:
        highest = self.logits.max(1, keepdims=True)
        shifted = self.logits - highest
        return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))


def page(folder: Path, picture: PictureOf) -> Path:
    """Write report.html into the folder of a run that is done. `picture` gives the one of a row of answers.npz.

    A picture that cannot be read is named without being shown. Raises MissingExtra, OSError, and CheckpointError where
    the run's files are damaged.
    """
    need("matplotlib", extra="report")
    run = _read(folder)
    parts = [_head(run), _curves(run.history), _confused(run), _worst(run, picture), _classes(run)]
    text = _document(str(run.recipe["name"]), "\n".join(parts))
    path, partial = folder / "report.html", folder / ".report.html.part"
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
    return path


def score(folder: Path) -> Score:
    """What the result of a run that is done answered rightly, whichever of its epochs it was made of.

    Raises OSError, and CheckpointError where the run's files are damaged.
    """
    return _read(folder).score()


def _read(folder: Path) -> _Run:
    answers = folder / "answers.npz"
    try:
        recipe = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
        lines = (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()
        with np.load(answers, allow_pickle=False) as held:
            logits, labels = held["logits"].astype(np.float64), held["labels"]
            return _Run(
                recipe,
                [json.loads(line) for line in lines],
                logits,
                labels,
                held["names"].tolist(),
                held["class_names"].tolist(),
            )
    except (ValueError, KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{folder}: recipe.json, history.jsonl or answers.npz is damaged ({error}); train again to have them anew"
        ) from None


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


def _head(run: _Run) -> str:
    met, epochs = run.score(), run.history[-1]["epoch"]
    low, high = met.top1_interval
    return (
        f"<h1>{_text(run.recipe['name'])}</h1>\n"
        f"<p>top-1 <b>{met.top1:.2f} %</b>, 95 % interval {low:.2f} to {high:.2f}; top-5 {met.top5:.2f} %; "
        f"on {met.num_pictures:,} test pictures; {epochs:,} epochs</p>\n"
        f'<p class="quiet">expected: {_text(run.recipe["expect"])}</p>'
    )


def _curves(history: Sequence[Mapping[str, Any]]) -> str:
    """Loss, score and learning rate over the epochs, drawn by matplotlib."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    epochs = [line["epoch"] for line in history]
    panels = {
        "loss": {"training": "loss", "test": "test_loss"},
        "test pictures answered rightly, %": {"top-1": "top1", "top-5": "top5"},
        "learning rate": {"": "lr"},
    }
    looks = [{"color": "#0072b2", "linestyle": "-"}, {"color": "#d55e00", "linestyle": "--"}]
    dots = "o" if len(epochs) <= 40 else None
    drawn = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "anabranch", "font.size": 9}):
        figure = Figure(figsize=(10, 2.9), layout="constrained")
        for axes, (title, lines) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
            for look, (label, key) in zip(looks, lines.items(), strict=False):
                axes.plot(epochs, [line[key] for line in history], marker=dots, markersize=3, label=label, **look)
            axes.set_title(title, fontsize=10)
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
            if len(lines) > 1:
                axes.legend(frameon=False)
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    shown = _inline(drawn.getvalue())
    return f'<h2>Over the epochs</h2>\n<div role="img" aria-label="{", ".join(panels)}">{shown}</div>'


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


def _confused(run: _Run) -> str:
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


def _classes(run: _Run) -> str:
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


def _worst(run: _Run, picture: PictureOf) -> str:
    rows = np.argsort(-run.losses(), kind="stable")[:_WORST].tolist()
    certainty = np.exp(run.log_probabilities())
    figures = []
    for row, image in zip(rows, _thumbnails([_picture(picture, row) for row in rows]), strict=True):
        true, answered = int(run.labels[row]), int(run.answered[row])
        said = f"{_text(run.class_names[answered])} {100 * certainty[row, answered]:.1f} %"
        other = "" if true == answered else f"<br>is {_text(run.class_names[true])} {100 * certainty[row, true]:.1f} %"
        figures.append(
            f"<figure>{image}<b>{said}</b>{other}<figcaption>{_text(_end(run.names[row]))}</figcaption></figure>"
        )
    return (
        f"<h2>The {len(figures)} test pictures with the largest loss</h2>\n"
        '<p class="quiet">What was answered, what it is, and the probability that the net gave each</p>\n'
        f'<div class="gallery">{"".join(figures)}</div>'
    )


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

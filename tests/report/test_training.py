from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
import resource
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from anabranch.errors import CheckpointError, ImageError, MissingExtra
from anabranch.report.training import page

NAMES = ["ant", "<script>alert('bee')</script>", "c\u202eat & Söhne"]  # with a mark that turns text around
LOGITS = [[9, 0, 0], [0, 9, 0], [0, 8, 0], [0, 0, 4], [0, 0, 3], [0, 2, 0]]
LABELS = [0, 1, 0, 2, 2, 2]  # pictures 2 and 5 are answered wrongly, both as class 1


class Seen(HTMLParser):
    """Every tag with its attributes, and the text within."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.captions: list[str] = []
        self.within = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.within = tag
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self.within = ""

    def handle_data(self, data: str) -> None:
        if self.within in ("td", "th"):
            self.tables[-1][-1][-1] += data
        elif self.within == "figcaption":
            self.captions.append(data)


def run(folder: Path, *, logits: object = LOGITS, labels: object = LABELS, names: list[str] = NAMES) -> Path:
    """The folder of a run of two epochs that is done."""
    line = {"epoch": 1, "loss": 2.0, "lr": 0.1, "top1": 20.0, "top5": 80.0, "test_loss": 1.5, "seconds": 9.0}
    history = [line, {**line, "epoch": 2, "loss": 1.0}]
    (folder / "history.jsonl").write_text("".join(json.dumps(each) + "\n" for each in history))
    recipe = {"name": "tiny", "expect": "50 % & more", "run": {"result": "last"}, "optimise": {"epochs": 1}}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    np.savez(
        folder / "answers.npz",
        logits=np.array(logits, np.float32),
        labels=np.array(labels, np.int64),
        indices=np.arange(len(labels)),
        names=np.array([f"{i}.png" for i in range(len(LABELS if labels is LABELS else labels))]),
        class_names=np.array(names),
    )
    return folder


def grey(row: int) -> np.ndarray:
    return np.full((10, 12, 3), 5 * row, np.uint8)


def test_the_page_loads_nothing_and_runs_nothing(tmp_path: Path) -> None:
    seen = Seen(page(run(tmp_path), grey))
    assert not {"script", "link", "iframe", "object", "embed", "form", "base"} & {tag for tag, _ in seen.tags}
    for tag, attributes in seen.tags:
        assert "style" not in attributes, f"the page's policy forbids a style on {tag}"
        assert not [name for name in attributes if name.startswith("on")]
        if tag == "img":
            assert attributes["src"].startswith("data:image/png;base64,")
        assert attributes.get("xlink:href", "#").startswith("#")
        assert "href" not in attributes


def test_the_policy_allows_the_pages_own_style_and_pictures_alone(tmp_path: Path) -> None:
    text = page(run(tmp_path), grey).read_text(encoding="utf-8")
    (style,) = re.findall("<style>(.*?)</style>", text, re.DOTALL)
    (policy,) = re.findall('http-equiv="Content-Security-Policy" content="(.*?)"', text)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.split("; ") == [
        "default-src 'none'",
        "img-src data:",
        f"style-src 'sha256-{digest}'",
        "base-uri 'none'",
        "form-action 'none'",
    ]


def test_the_curves_are_well_formed_and_say_what_they_show(tmp_path: Path) -> None:
    text = page(run(tmp_path), grey).read_text(encoding="utf-8")
    (svg,) = re.findall("<svg.*?</svg>", text, re.DOTALL)
    said = {node.text for node in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")}
    assert {"loss", "training", "test", "top-1", "top-5", "learning rate", "epoch"} <= said


def test_the_distance_from_a_teacher_is_not_drawn_beside_the_loss_of_labels(tmp_path: Path) -> None:
    recipe = json.loads((run(tmp_path) / "recipe.json").read_text())
    (tmp_path / "recipe.json").write_text(json.dumps({**recipe, "distil": {"teacher": "random"}}))
    (svg,) = re.findall("<svg.*?</svg>", page(tmp_path, grey).read_text(encoding="utf-8"), re.DOTALL)
    said = {node.text for node in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")}
    assert {"distance from the teacher", "loss on the test pictures"} <= said
    assert not {"loss", "training"} & said


def test_a_run_of_one_epoch_has_a_page(tmp_path: Path) -> None:
    first, _ = (run(tmp_path) / "history.jsonl").read_text().splitlines()
    (tmp_path / "history.jsonl").write_text(first + "\n")
    assert page(tmp_path, grey).stat().st_size > 0


def test_rows_of_the_matrix_are_classes_and_columns_answers(tmp_path: Path) -> None:
    matrix = Seen(page(run(tmp_path), grey)).tables[0]
    assert [row[1:] for row in matrix[1:]] == [["1", "1", ""], ["", "1", ""], ["", "1", "2"]]
    assert [row[0] for row in matrix[1:]] == matrix[0][1:]


def test_names_are_shown_as_text_without_what_turns_it_around(tmp_path: Path) -> None:
    path = page(run(tmp_path), grey)
    assert Seen(path).tables[0][0][1:] == ["ant", "<script>alert('bee')</script>", "c\\u202eat & Söhne"]
    assert "<script" not in path.read_text(encoding="utf-8")


def test_of_many_classes_the_pairs_confused_most_are_listed(tmp_path: Path) -> None:
    labels = [0, 0, 0, 0, 7, 7, 7, 7, 7, *range(31)]
    answered = [3, 3, 3, 0, 8, 8, 7, 7, 7, *range(31)]
    run(tmp_path, logits=np.eye(31)[answered], labels=labels, names=[f"n{i}" for i in range(31)])
    assert Seen(page(tmp_path, grey)).tables[0] == [
        ["class", "answered", "pictures", "of the class"],
        ["n0", "n3", "3", "60.00 %"],
        ["n7", "n8", "2", "33.33 %"],
    ]


def test_classes_are_listed_from_the_worst(tmp_path: Path) -> None:
    assert [row[1:] for row in Seen(page(run(tmp_path), grey)).tables[-1][1:]] == [
        ["2", "50.00 %", "100.00 %"],
        ["3", "66.67 %", "100.00 %"],
        ["1", "100.00 %", "33.33 %"],
    ]


def test_a_class_without_test_pictures_is_left_out_of_the_list(tmp_path: Path) -> None:
    run(tmp_path, logits=LOGITS[:2], labels=[0, 1])
    assert len(Seen(page(tmp_path, grey)).tables[-1]) == 3


def test_the_worst_pictures_come_in_the_order_of_their_loss(tmp_path: Path) -> None:
    def loss(row: int) -> float:
        return math.log(sum(math.exp(each) for each in LOGITS[row])) - LOGITS[row][LABELS[row]]

    path = page(run(tmp_path), grey)
    order = sorted(range(6), key=loss, reverse=True)
    seen = Seen(path)
    assert seen.captions == [f"{row}.png" for row in order]
    sources = [attributes["src"] for tag, attributes in seen.tags if tag == "img"]
    for row, source in zip(order, sources, strict=True):
        shown = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
        assert np.array_equal(np.asarray(shown), grey(row))
    # picture 2: e^8 against twice e^0
    assert f"{100 * math.exp(8) / (math.exp(8) + 2):.1f} %" in path.read_text(encoding="utf-8")


def test_large_pictures_that_compress_badly_stay_within_the_bytes_allowed(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    run(tmp_path, logits=np.zeros((30, 3)), labels=[0] * 30)
    path = page(tmp_path, lambda row: noise)
    assert path.read_text(encoding="utf-8").count("<img") == 24
    assert path.stat().st_size < 250_000


def test_a_picture_that_has_gone_is_named(tmp_path: Path) -> None:
    def gone(row: int) -> np.ndarray:
        raise ImageError("gone")

    seen = Seen(page(run(tmp_path), gone))
    assert len(seen.captions) == 6
    assert not [tag for tag, _ in seen.tags if tag == "img"]


def test_the_score_has_wilsons_interval(tmp_path: Path) -> None:
    run(tmp_path, logits=np.eye(3)[[0] * 8 + [1] * 2], labels=[0] * 10)
    # 8 of 10 is the textbooks' example
    assert "80.00 %</b>, 95 % interval 49.02 to 94.33" in page(tmp_path, grey).read_text(encoding="utf-8")


def test_top_5_counts_a_class_among_the_five_highest(tmp_path: Path) -> None:
    ranks = np.arange(8, 0, -1)  # class 0 is answered first, class 7 last
    run(tmp_path, logits=[ranks] * 4, labels=[0, 4, 5, 7], names=list("abcdefgh"))
    assert "top-5 50.00 %" in page(tmp_path, grey).read_text(encoding="utf-8")


def several(folder: Path) -> Path:
    """The folder of a run on pictures that show any number of three classes."""
    run(folder)
    line = {"epoch": 1, "loss": 2.0, "lr": 0.1, "map": 20.0, "f1": 80.0, "test_loss": 1.5, "seconds": 9.0}
    (folder / "history.jsonl").write_text(json.dumps(line) + "\n")
    logits = [[3.0, -0.5, -9.0], [1.0, -1.0, -9.0], [2.0, 5.0, -9.0], [-9.0, -9.0, -9.0]]
    shown = [[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0]]  # the second is said to show class 0, and shows class 1
    np.savez(
        folder / "answers.npz",
        logits=np.array(logits, np.float32),
        labels=np.array(shown, np.uint8),
        indices=np.arange(4),
        names=np.array([f"{i}.png" for i in range(4)]),
        class_names=np.array(NAMES),
    )
    return folder


def test_of_several_classes_a_picture_the_precision_of_each_is_listed_from_the_worst(tmp_path: Path) -> None:
    path = page(several(tmp_path), grey)
    assert Seen(path).tables == [
        [
            ["class", "pictures", "average precision"],
            [NAMES[1], "2", "83.33 %"],  # met at ranks 1 and 3
            [NAMES[0], "2", "100.00 %"],
        ]
    ]
    text = path.read_text(encoding="utf-8")
    assert "mAP <b>91.67 %</b>; F1 75.00 %; on 4 test pictures" in text  # right: 3; wrong: 1; missed: 1
    assert {"mAP", "F1"} <= set(re.findall(r">([^<>]+)</text>", text))


def test_the_worst_pictures_of_several_classes_name_what_was_wrong_and_what_was_missed(tmp_path: Path) -> None:
    path = page(several(tmp_path), grey)
    assert Seen(path).captions[0] == "1.png"
    text = path.read_text(encoding="utf-8")
    chance = 100 / (1 + math.exp(-1))
    assert f"<b>ant {chance:.1f} %</b><br>missed &lt;script&gt;" in text
    assert "<b>nothing wrong</b><br>missed nothing" in text


def test_a_page_that_finds_no_room_leaves_no_half_of_it(tmp_path: Path) -> None:
    run(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(CheckpointError, match=r"report\.html: cannot be written \(File too large\)"):
            page(tmp_path, grey)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name for path in tmp_path.iterdir()} == {"answers.npz", "history.jsonl", "recipe.json"}


def test_without_matplotlib_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match=r"pip install 'anabranch\[report\]'"):
        page(run(tmp_path), grey)


def test_the_page_of_a_probe_shows_the_weight_decays_it_tried_instead_of_epochs(tmp_path: Path) -> None:
    folder = run(tmp_path)
    tried = [{"weight_decay": decay, "top1": 60.0, "loss": 1.0} for decay in (1.0, 0.1)]
    line = {"epoch": 1, "weight_decay": 0.1, "tried": tried, "seconds": 9.0}
    (folder / "history.jsonl").write_text(json.dumps(line) + "\n")
    text = page(folder, grey).read_text()
    assert "<h2>Over the weight decays</h2>" in text
    assert "a weight decay of 0.1</p>" in text
    assert "epochs" not in text
    (folder / "history.jsonl").write_text(json.dumps({**line, "tried": []}) + "\n")
    assert "<svg" not in page(folder, grey).read_text()

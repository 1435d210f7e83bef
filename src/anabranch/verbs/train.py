"""`anabranch train`: a recipe run, its progress on the screen."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from anabranch.errors import UsageError, need
from anabranch.screen import print_json

if TYPE_CHECKING:  # it stands in torch's wing
    from anabranch.train.tables import Recipe


def run(
    recipe_file: str,
    *,
    data: str | None = None,
    out: str | None,
    overrides: Sequence[str],
    smoke: bool,
    resume: bool,
    dry_run: bool,
    json: bool,
) -> int:
    need("torch", extra="train")
    from anabranch.train.loop import rehearse, train
    from anabranch.train.recipe import read_recipe
    from anabranch.verbs.training_screen import Bar, Lines, ending, estimate_json, estimate_lines, page_line

    recipe = read_recipe(
        Path(recipe_file), overrides=overrides, smoke=smoke, pictures=Path(data) if data is not None else None
    )
    folder = Path(out) if out else Path("runs") / recipe.name
    if recipe.probe:
        return _probed(recipe, folder, smoke=smoke, dry_run=dry_run, json=json)
    leads = int(os.environ.get("RANK", 0)) == 0
    if dry_run:
        found = rehearse(recipe, folder, locate=_located)
        if leads and json:
            print_json(estimate_json(found))
        elif leads:
            print("\n".join(estimate_lines(found)))
        return 0

    screen = nullcontext(lambda told: None) if json or not leads else Bar() if sys.stderr.isatty() else Lines()
    with screen as report:
        result = train(recipe, folder, resume=resume, report=report, locate=_located)
    if not leads:
        return 0
    from anabranch.report.training_run import read_run
    from anabranch.train.score import looked_at
    from anabranch.train.sets import open_sets

    sets = open_sets(recipe.data)
    few = looked_at(recipe, sets)
    about_page = page_line(folder, lambda row: sets.tested.picture(few[row]))
    history = folder / "history.jsonl"
    if json:
        print_json({"checkpoint": str(result), "history": str(history)})
        return 0
    score = read_run(folder).score()
    print("\n".join(ending(result, score, about_page=about_page, expect=None if smoke else recipe.expect)))
    return 0


def _probed(recipe: Recipe, folder: Path, *, smoke: bool, dry_run: bool, json: bool) -> int:
    from anabranch.cache import cache_folder
    from anabranch.train.probe import train_probe
    from anabranch.train.sets import open_sets
    from anabranch.train.team import Team
    from anabranch.verbs.progress import counter
    from anabranch.verbs.training_screen import ending, page_line

    if dry_run or int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UsageError("a probe takes seconds and one process; run it without --dry-run and without torchrun")
    with Team().alone_in(folder), counter("pictures looked at:") as report:
        met = train_probe(recipe, folder, cache=cache_folder() / "probe", report=report)
    tested = open_sets(recipe.data).tested
    about_page = page_line(folder, lambda row: tested.picture(int(met.indices[row])))
    result, history = folder / "model.safetensors", folder / "history.jsonl"
    if json:
        print_json({"checkpoint": str(result), "history": str(history)})
        return 0
    chosen = " was best on held-out pictures" if met.head.tried else ""
    lines = [f"  {met.score.seconds:.1f} s; a weight decay of {met.head.weight_decay:g}{chosen}", about_page]
    if lost := len(met.unreadable) + len(met.score.unreadable):
        lines.insert(0, f"  {lost:,} pictures could not be read and were left out: {folder / 'unreadable.txt'}")
    expect = None if smoke else recipe.expect
    print("\n".join(ending(result, met.score, about_page="\n".join(lines), expect=expect)))
    return 0


def _located(name: str) -> tuple[Path, str | None]:
    from anabranch.verbs.models import checkpoint

    found = checkpoint(name)
    return found.file, found.like

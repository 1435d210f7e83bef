"""`anabranch train`: a recipe run, its progress on the screen."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from anabranch.errors import UsageError, need
from anabranch.screen import counted, print_json

if TYPE_CHECKING:  # it stands in torch's wing
    from anabranch.train.tables import Recipe


def run(
    recipe_given: str,
    *,
    data: str | None = None,
    out: str | None,
    overrides: Sequence[str],
    smoke: bool,
    resume: bool,
    dry_run: bool,
    json: bool,
) -> int:
    from anabranch.train.stopping import Stopping, variable_number

    processes = variable_number("WORLD_SIZE", 1)
    leads = processes == 1 or variable_number("RANK", 0) == 0
    if processes > 1:  # or every process is warned of parameters that are not unused
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    need("torch", extra="train")
    from anabranch.train.loop import train
    from anabranch.train.recipe import find_recipe, read_recipe
    from anabranch.train.rehearse import rehearse
    from anabranch.verbs.training_screen import Bar, Lines, ending, estimate_json, estimate_lines, page_line

    pictures = Path(data) if data is not None else None
    recipe = read_recipe(find_recipe(recipe_given), overrides=overrides, smoke=smoke, pictures=pictures)
    folder = Path(out) if out else Path("runs") / recipe.name
    if recipe.probe:
        if resume or processes > 1:
            raise UsageError("a probe is one look at the pictures: leave out --resume and torchrun")
        if dry_run:
            return _probe_estimated(recipe, json=json)
        return _probed(recipe, folder, smoke=smoke, json=json)
    if dry_run:
        if resume:
            raise UsageError("--dry-run says what a whole run takes; leave out --resume")
        if leads:
            print("trying a few steps, which takes minutes where one takes seconds", file=sys.stderr)
        found = rehearse(recipe, folder, locate=_located)
        if leads and json:
            print_json(estimate_json(found))
        elif leads:
            print("\n".join(estimate_lines(found)))
        return 0

    last = folder / "last.safetensors"
    if resume and leads and not last.exists():
        print(f"{folder}: holds no run to go on with; a new one begins", file=sys.stderr)
    screen = nullcontext(lambda told: None) if json or not leads else Bar() if sys.stderr.isatty() else Lines()
    try:
        says = "stopping after this step; Ctrl-C again ends at once" if leads and processes == 1 else ""
        with screen as report, Stopping(says) as stopping:
            result = train(recipe, folder, resume=resume, report=report, locate=_located, stopping=stopping)
    except (KeyboardInterrupt, SystemExit):  # by SIGINT, SIGTERM or SIGHUP
        if leads:
            kept = f"{last} is kept, --resume goes on from there" if last.exists() else "nothing is kept yet"
            print(f"stopped: {kept}", file=sys.stderr)
        raise
    if not leads:
        return 0
    from anabranch.report.training_run import read_run
    from anabranch.train.sets import open_sets

    ran, tested = read_run(folder), open_sets(recipe.data).tested
    about_page = page_line(folder, lambda row: tested.picture(int(ran.indices[row])))
    if json:
        print_json({"checkpoint": str(result), "history": str(folder / "history.jsonl")})
        return 0
    expect, held_out = None if smoke else recipe.expect, recipe.data.test is None
    about = [f"  {ran.made_of}", about_page]
    print("\n".join(ending(result, ran.score(), about=about, expect=expect, held_out=held_out)))
    return 0


def _probed(recipe: Recipe, folder: Path, *, smoke: bool, json: bool) -> int:
    from anabranch.cache import cache_folder
    from anabranch.train.probe import train_probe
    from anabranch.train.sets import doubts, open_sets
    from anabranch.train.team import Team
    from anabranch.verbs.progress import counter
    from anabranch.verbs.training_screen import ending, page_line

    sets = open_sets(recipe.data)
    for each in doubts(sets):
        print(f"warning: {each}", file=sys.stderr)
    pictures = len(sets.shown) + len(sets.tested)
    with Team().alone_in(folder), counter("pictures looked at:", pictures) as report:
        met = train_probe(recipe, sets, folder, cache=cache_folder() / "probe", report=report)
    for each in met.not_kept:
        print(f"warning: {each}; the next probe looks again. ANABRANCH_CACHE names another place", file=sys.stderr)
    about_page = page_line(folder, lambda row: sets.tested.picture(int(met.indices[row])))
    result, history = folder / "model.safetensors", folder / "history.jsonl"
    if json:
        print_json({"checkpoint": str(result), "history": str(history)})
        return 0
    chosen = " was best on held-out pictures" if met.head.tried else ""
    fitted = f"a weight decay of {met.head.weight_decay:g}{chosen}"
    about = [f"  {met.score.seconds:.1f} s, looked at in {met.precision}; {fitted}", about_page]
    if lost := len(met.unreadable) + len(met.score.unreadable):
        about.insert(0, f"  left out {counted(lost, 'picture')} that could not be read: {folder / 'unreadable.txt'}")
    expect, held_out = None if smoke else recipe.expect, recipe.data.test is None
    print("\n".join(ending(result, met.score, about=about, expect=expect, held_out=held_out)))
    return 0


def _probe_estimated(recipe: Recipe, *, json: bool) -> int:
    from anabranch.cache import cache_folder
    from anabranch.train.probe import rehearse_probe
    from anabranch.train.sets import doubts, open_sets
    from anabranch.verbs.training_screen import probe_json, probe_lines

    sets = open_sets(recipe.data)
    for each in doubts(sets):
        print(f"warning: {each}", file=sys.stderr)
    found = rehearse_probe(recipe, sets, cache=cache_folder() / "probe")
    if json:
        print_json(probe_json(found))
    else:
        print("\n".join(probe_lines(found)))
    return 0


def _located(name: str) -> tuple[Path, str | None]:
    from anabranch.verbs.models import checkpoint

    found = checkpoint(name)
    return found.file, found.like

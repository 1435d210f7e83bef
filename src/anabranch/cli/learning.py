"""Verbs about training, and the pictures for it."""

from __future__ import annotations

import click

from anabranch.cli.options import json_option
from anabranch.errors import UsageError


@click.command()
@click.argument("recipe")
@click.option("--data", metavar="DIR", help="Your pictures: class folders, in train/ and val/, or in DIR itself.")
@click.option("--out", metavar="DIR", help="Folder of the run.  [default: runs/NAME]")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of the recipe.")
@click.option("--smoke", is_flag=True, help="The recipe's own short run: does it work at all?")
@click.option("--resume", is_flag=True, help="Go on where the run stopped, to the same weights.")
@click.option(
    "--dry-run", is_flag=True, help="Try some of the run, and say what time, memory and disk all of it will take."
)
@json_option
def train(
    recipe: str,
    data: str | None,
    out: str | None,
    overrides: tuple[str, ...],
    smoke: bool,
    resume: bool,
    dry_run: bool,
    json: bool,
) -> int:
    """Train as RECIPE says: a TOML file, or the name of one that anabranch brings along, such as probe or finetune.

    On several devices: torchrun --nproc-per-node N -m anabranch train RECIPE.
    """
    from anabranch.verbs import train

    return train.run(
        recipe, data=data, out=out, overrides=overrides, smoke=smoke, resume=resume, dry_run=dry_run, json=json
    )


@click.command()
@click.argument("data")
@click.option("-o", "--out", required=True, metavar="DIR", help="Folder of the shards; new or empty.")
@click.option("--split", help="Of a set that holds several: train, test, val.")
@click.option("--labels", metavar="FILE", help="The labels of a flat folder: lines of 'picture label'.")
@click.option(
    "--max-mb",
    type=int,
    default=256,
    show_default=True,
    metavar="MB",
    help="Of a shard; the picture that reaches it is its last.",
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the order in which pictures are packed."
)
@json_option
def shards(data: str, out: str, split: str | None, labels: str | None, max_mb: int, seed: int, json: bool) -> int:
    """Pack the labelled pictures of DATA into WebDataset shards, their files as they are, in a shuffled order."""
    from anabranch.verbs import shards

    return shards.run(data, out=out, split=split, labels=labels, max_mb=max_mb, seed=seed, json=json)


@click.command()
@click.argument("data")
@click.option("-o", "--out", required=True, metavar="DIR", help="Folder of the lists; new or empty.")
@click.option(
    "--share",
    "shares",
    multiple=True,
    metavar="NAME=SHARE",
    default=["train=0.8", "val=0.2"],
    show_default=True,
    help="A part and its share of each class; may be given again.",
)
@click.option("--labels", metavar="FILE", help="The labels of a flat folder: lines of 'picture label'.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another one splits otherwise.")
@click.option("--together", is_flag=True, help="Keep pictures that look alike in one part.")
@json_option
def split(
    data: str, out: str, shares: tuple[str, ...], labels: str | None, seed: int, together: bool, json: bool
) -> int:
    """Split the labelled pictures of DATA into parts, class by class: a list file for each part.

    Where a picture goes depends on its name and the seed alone, so that pictures added later move no others; but of a
    class so small that chance leaves it out of a part, one is moved there.
    """
    from anabranch.verbs import split

    return split.run(data, out=out, shares=shares, labels=labels, seed=seed, together=together, json=json)


@click.command()
@click.argument("data")
@click.argument("other", required=False)
@click.option("--split", help="Of DATA, where it holds several: train, test, val.")
@click.option("--other-split", help="Of OTHER, or of DATA where no OTHER is given.")
@click.option("--labels", metavar="FILE", help="The labels of a flat DATA, if known: lines of 'picture label'.")
@click.option("--other-labels", metavar="FILE", help="The labels of a flat OTHER.")
@click.option("--radius", type=click.IntRange(0, 8), help="Bits in which alike ones differ.  [default: 4]")
@click.option("--exact", is_flag=True, help="Only pictures that are equal pixel for pixel.")
@click.option(
    "--csv", "csv_file", metavar="FILE", help="Write a row for each such picture to FILE; - for standard output."
)
@json_option
def duplicates(
    data: str,
    other: str | None,
    split: str | None,
    other_split: str | None,
    labels: str | None,
    other_labels: str | None,
    radius: int | None,
    exact: bool,
    csv_file: str | None,
    json: bool,
) -> int:
    """Find pictures that come twice in DATA, or in DATA and OTHER, such as a training and a test set.

    The exit status is 1 where two sets share pictures, or a picture cannot be read.
    """
    from anabranch.verbs import duplicates

    if exact and radius is not None:
        raise UsageError("--exact looks for equal pixels alone, which have no --radius; give one of them")
    return duplicates.run(
        data,
        other,
        split=split,
        other_split=other_split,
        labels=labels,
        other_labels=other_labels,
        radius=None if exact else 4 if radius is None else radius,
        json=json,
        csv_file=csv_file,
    )

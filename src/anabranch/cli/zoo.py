"""Verbs about published nets and weights, and the files that hold them."""

from __future__ import annotations

from typing import Any

import click

from anabranch.cli.options import json_option


@click.command("list")
@click.argument("pattern", required=False)
@click.option("--nets", is_flag=True, help="A line for each architecture instead of each set of weights.")
@click.option("--licence", metavar="SPDX", help="Only weights under this licence, or a wildcard such as 'CC-*'.")
@click.option("--commercial", is_flag=True, help="Only weights whose licence is known and allows commercial use.")
@click.option("--source", metavar="PUBLISHER", help="Only weights that this publisher published; may be a wildcard.")
@click.option("--max-params", type=float, metavar="M", help="At most so many million parameters.")
@click.option("--max-macs", type=float, metavar="G", help="At most so many 10^9 multiply-accumulates.")
@click.option("--min-top1", type=float, metavar="P", help="Only weights with a published top-1 of at least P percent.")
@click.option(
    "--sort",
    type=click.Choice(["family", "name", "params", "macs", "top1", "top5"]),
    default="family",
    show_default=True,
    help="What the lines are sorted by, the highest last.",
)
@json_option
def list_(pattern: str | None, nets: bool, sort: str, json: bool, **wanted: Any) -> None:
    """List published weights, or architectures, with counted size and published accuracy.

    PATTERN is part of a name, or a wildcard such as '*_vd_*'. Every zoo's names count.
    """
    from anabranch.catalogue.wanted import Wanted
    from anabranch.verbs import zoo

    zoo.print_list(pattern, Wanted(**wanted), nets=nets, sort=sort, json=json)


@click.command()
@click.argument("name")
@json_option
def show(name: str, json: bool) -> None:
    """Show what a name means, and what is claimed of it.

    NAME is any zoo's name of an architecture or of weights, its case as printed.
    """
    from anabranch.verbs import zoo

    zoo.print_show(name, json=json)


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option(
    "--verify", is_flag=True, help="Compute the hash of a file that is there again; fail where none is stated."
)
@json_option
def fetch(names: tuple[str, ...], verify: bool, json: bool) -> int:
    """Download the published file of each NAME, verify it, and keep it in the cache.

    NAME is a zoo's name of weights; `show` lists those of an architecture. What broke off is gone on with. Where
    ANABRANCH_MIRROR names a folder or its address, the file comes from there alone.
    """
    from anabranch.verbs import fetch

    return fetch.run(names, verify=verify, json=json)


@click.command()
@click.argument("file")
@click.option("--ema", is_flag=True, help="Take the running mean of the weights that a training checkpoint holds.")
@json_option
def identify(file: str, ema: bool, json: bool) -> int:
    """Say which architecture a checkpoint FILE of any zoo is, and whose spelling it has."""
    from anabranch.verbs import identify

    return identify.run(file, ema=ema, json=json)


@click.command()
@click.argument("file")
@click.option("-o", "--out", required=True, metavar="FILE", help="Ends in .safetensors, .pth, .pt or .pdparams.")
@click.option(
    "--to",
    required=True,
    metavar="DIALECT",
    help="timm (torchvision and others spell alike), legacy, mmpretrain, paddleclas or anabranch.",
)
@click.option("--from", "told", default="auto", show_default=True, metavar="DIALECT", help="As FILE is spelled.")
@click.option("--architecture", metavar="NAME", help="What FILE is.  [default: found out]")
@click.option("--like", metavar="NAME", help="Published weights whose input and classes go into an anabranch file.")
@click.option("--ema", is_flag=True, help="Take the running mean of the weights that a training checkpoint holds.")
@click.option("--overwrite", is_flag=True, help="Replace a file that is there.")
def convert(
    file: str, out: str, to: str, told: str, architecture: str | None, like: str | None, ema: bool, overwrite: bool
) -> int:
    """Write the checkpoint FILE as another zoo spells and lays out its tensors."""
    from anabranch.verbs import convert

    return convert.run(
        file, out=out, to=to, told=told, architecture=architecture, like=like, ema=ema, overwrite=overwrite
    )

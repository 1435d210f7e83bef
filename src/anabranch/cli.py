"""The command line: one verb, one short function.

A verb imports what it needs inside its function, so that `--help` and `list` wait for nothing. It raises
`anabranch.Error` for what the user can mend; `main` turns that into one line and an exit status. Click and not typer:
typer validates each argument through pydantic, which alone takes longer than `list` may.
"""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from anabranch.errors import Error, UsageError
from anabranch.version import VERSION

Verb = TypeVar("Verb", bound=Callable[..., Any])

json_option = click.option("--json", is_flag=True, help="Print JSON for machines.")
model_option = click.option(
    "-m",
    "--model",
    metavar="NAME",
    help="Artefact folder, checkpoint, or name of published weights.  [default: the built-in model]",
)


def engine_options(verb: Verb) -> Verb:
    """--engine, --precision, --threads and --streams; the engine itself says which of them it knows."""
    verb = click.option(
        "--streams", type=int, metavar="N", help="Batches at once.  [default: 1 a thread for many pictures]"
    )(verb)
    verb = click.option("--threads", type=int, metavar="N", help="Processor threads.  [default: all cores]")(verb)
    verb = click.option("--precision", help="What the engine computes in.  [default: f32 where there is that]")(verb)
    return click.option("--engine", default="openvino", show_default=True, help="What computes.")(verb)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(VERSION, message="anabranch %(version)s")
def app() -> None:
    """ResNeXt, SE-ResNet, SENet and Res2Net classifiers: from any checkpoint or a folder of photos to fast answers."""


def main() -> None:
    """Entry point. Exit status 0; 1: it failed; 2: it was asked wrongly; 130: interrupted; 143: ended."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name may be no text at all
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what is half written is taken away
    try:
        sys.exit(app(standalone_mode=False))
    except Error as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except OSError as error:  # a full disk, a path that may not be read or written
        print(f"error: {error.filename or 'input or output'}: {error.strerror or error}", file=sys.stderr)
        sys.exit(1)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)


@app.command("list")
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
    help="What the lines are sorted by.",
)
@json_option
def list_(pattern: str | None, nets: bool, sort: str, json: bool, **wanted: Any) -> None:
    """List published weights, or architectures, with counted size and published accuracy.

    PATTERN is part of a name, or a wildcard such as '*_vd_*'. Every zoo's names count.
    """
    from anabranch.catalogue.wanted import Wanted
    from anabranch.verbs import zoo

    zoo.print_list(pattern, Wanted(**wanted), nets=nets, sort=sort, json=json)


@app.command()
@click.argument("name")
@json_option
def show(name: str, json: bool) -> None:
    """Show what a name means, and what is claimed of it.

    NAME is any zoo's name of an architecture or of weights, its case as printed.
    """
    from anabranch.verbs import zoo

    zoo.print_show(name, json=json)


@app.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option(
    "--verify", is_flag=True, help="Compute the hash of a file that is there again; fail where nobody states it."
)
@json_option
def fetch(names: tuple[str, ...], verify: bool, json: bool) -> int:
    """Download the published file of each NAME, verify it, and keep it in the cache.

    NAME is a zoo's name of weights; `show` lists those of an architecture. What broke off is gone on with. Where
    ANABRANCH_MIRROR names a folder or its address, the file comes from there alone.
    """
    from anabranch.verbs import fetch

    return fetch.run(names, verify=verify, json=json)


@app.command()
@click.argument("file")
@click.option("--ema", is_flag=True, help="Take the running mean of the weights that a training checkpoint holds.")
@json_option
def identify(file: str, ema: bool, json: bool) -> int:
    """Say which architecture a checkpoint FILE of any zoo is, and whose spelling it has."""
    from anabranch.verbs import identify

    return identify.run(file, ema=ema, json=json)


@app.command()
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


@app.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@model_option
@click.option("--top", default=5, show_default=True, metavar="K", help="Classes shown for each picture.")
@click.option("--csv", "csv_file", metavar="FILE", help="Write a row for each picture to FILE; - for standard output.")
@click.option("--resume", is_flag=True, help="Go on with the FILE of --csv where a run was stopped.")
@click.option("--scaled-decode", "scaled", is_flag=True, help="Decode large JPEGs smaller: sooner, and not exact.")
@engine_options
@json_option
def classify(
    images: tuple[str, ...],
    model: str | None,
    top: int,
    csv_file: str | None,
    resume: bool,
    scaled: bool,
    engine: str,
    precision: str | None,
    threads: int | None,
    streams: int | None,
    json: bool,
) -> int:
    """Say what is in each IMAGE: files, folders, patterns, or - for a picture on standard input.

    A picture that cannot be read is reported, the others are answered, and the exit status is 1.
    """
    from anabranch.verbs import classify
    from anabranch.verbs.models import open_named

    if json and csv_file is not None:
        raise UsageError("--json and --csv are two forms of one answer; give one of them")
    if resume and csv_file in (None, "-"):
        raise UsageError("--resume goes on with the file of --csv; name one")
    sources = classify.sources_of(images)
    many = len(sources) >= classify.MANY
    predictor = open_named(model, engine=engine, precision=precision, threads=threads, streams=streams, many=many)
    return classify.run(predictor, sources, top=top, json=json, csv_file=csv_file, resume=resume, scaled=scaled)


@app.command()
@click.argument("data")
@model_option
@click.option("--split", help="Of a set that holds several: train, test, val.")
@click.option("--labels", metavar="FILE", help="The labels of a flat folder: lines of 'picture label'.")
@click.option("--record", "results", metavar="FILE", help="Append the score, machine and versions to a .jsonl file.")
@engine_options
@json_option
def evaluate(
    data: str,
    model: str | None,
    split: str | None,
    labels: str | None,
    results: str | None,
    engine: str,
    precision: str | None,
    threads: int | None,
    streams: int | None,
    json: bool,
) -> int:
    """Measure top-1 and top-5 of a model on the labelled pictures of DATA, or mAP and F1 of one of several labels each.

    DATA is a folder of class folders (ImageNet's train/ and val/ among them), a list file, a CSV file or an IDX file.
    """
    from anabranch.verbs import evaluate
    from anabranch.verbs.models import open_named

    predictor = open_named(model, engine=engine, precision=precision, threads=threads, streams=streams, many=True)
    return evaluate.run(predictor, data, split=split, labels=labels, json=json, results=results)


@app.command()
@click.argument("ours", metavar="A")
@click.argument("reference", metavar="B")
@click.argument("data")
@click.option("--split", help="Of a set that holds several: train, test, val.")
@click.option("--max-flips", type=click.FloatRange(0, 100), metavar="PERCENT", help="End with status 1 above this.")
@json_option
def agree(ours: str, reference: str, data: str, split: str | None, max_flips: float | None, json: bool) -> int:
    """Compare the answers of A with those of B on the pictures of DATA: a labelled set, or a folder of pictures.

    A and B are models as -m takes them, each with what is to run it: NAME@onnxruntime, NAME@int8, NAME@openvino:int8.
    """
    from anabranch.verbs import agree

    return agree.run(ours, reference, data, split=split, max_flips=max_flips, json=json)


@app.command()
@click.argument("recipe")
@click.option("--data", metavar="DIR", help="Your pictures: class folders, in train/ and val/, or in DIR itself.")
@click.option("--out", metavar="DIR", help="Folder of the run.  [default: runs/NAME]")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of the recipe.")
@click.option("--smoke", is_flag=True, help="The recipe's own short run: does it work at all?")
@click.option("--resume", is_flag=True, help="Go on where the run stopped, to the same weights.")
@click.option("--dry-run", is_flag=True, help="Try a few steps and say what time, memory and disk the run will take.")
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
    """Train as RECIPE says, a TOML file. On several devices: torchrun --nproc-per-node N -m anabranch train RECIPE."""
    from anabranch.verbs import train

    return train.run(
        recipe, data=data, out=out, overrides=overrides, smoke=smoke, resume=resume, dry_run=dry_run, json=json
    )


@app.command()
@click.argument("data")
@click.option("-o", "--out", required=True, metavar="DIR", help="Folder of the shards; new or empty.")
@click.option("--split", help="Of a set that holds several: train, test, val.")
@click.option("--labels", metavar="FILE", help="The labels of a flat folder: lines of 'picture label'.")
@click.option("--max-mb", type=int, default=256, show_default=True, metavar="MB", help="At most so large is a shard.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the order in which pictures are packed.")
@json_option
def shards(data: str, out: str, split: str | None, labels: str | None, max_mb: int, seed: int, json: bool) -> int:
    """Pack the labelled pictures of DATA into WebDataset shards, their files as they are, in a shuffled order."""
    from anabranch.verbs import shards

    return shards.run(data, out=out, split=split, labels=labels, max_mb=max_mb, seed=seed, json=json)


@app.command()
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

    Where a picture goes depends on its name and the seed alone, so that pictures added later move no others.
    """
    from anabranch.verbs import split

    return split.run(data, out=out, shares=shares, labels=labels, seed=seed, together=together, json=json)


@app.command()
@click.argument("data")
@click.argument("other", required=False)
@click.option("--split", help="Of DATA, where it holds several: train, test, val.")
@click.option("--other-split", help="Of OTHER, or of DATA where no OTHER is given.")
@click.option("--labels", metavar="FILE", help="The labels of a flat DATA: lines of 'picture label'.")
@click.option("--other-labels", metavar="FILE", help="The labels of a flat OTHER.")
@click.option(
    "--radius", type=click.IntRange(0, 8), default=4, show_default=True, help="Bits in which alike ones differ."
)
@click.option("--exact", is_flag=True, help="Only pictures that are equal pixel for pixel.")
@click.option("--csv", "csv_file", metavar="FILE", help="Write a row for each pair to FILE; - for standard output.")
@json_option
def duplicates(
    data: str,
    other: str | None,
    split: str | None,
    other_split: str | None,
    labels: str | None,
    other_labels: str | None,
    radius: int,
    exact: bool,
    csv_file: str | None,
    json: bool,
) -> int:
    """Find pictures that come twice in DATA, or in DATA and OTHER, such as a training and a test set.

    The exit status is 1 where two sets share pictures, or a picture cannot be read.
    """
    from anabranch.verbs import duplicates

    return duplicates.run(
        data,
        other,
        split=split,
        other_split=other_split,
        labels=labels,
        other_labels=other_labels,
        radius=None if exact else radius,
        json=json,
        csv_file=csv_file,
    )


@app.command()
@click.argument("name")
@click.option("-o", "--out", required=True, metavar="DIR", help="Folder of the artefact.")
@click.option("--like", metavar="NAME", help="Published weights whose input, classes and licence NAME's file shares.")
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=click.Choice(["openvino", "onnx", "tensorrt", "torch", "ncnn", "mnn", "executorch", "litert"]),
    help="Files to write; may be given again.  [default: openvino, and onnx where ONNX Runtime is installed]",
)
@click.option(
    "--stored",
    type=click.Choice(["f32", "f16"]),
    default="f32",
    show_default=True,
    help="How OpenVINO's f32 weights are stored; f16 halves the files and rounds the weights.",
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=click.Choice(["f32", "bf16", "int8"]),
    default=["f32"],
    show_default=True,
    help="What to compute in; may be given again. bf16 takes the f32 files.",
)
@click.option("--calibrate", metavar="DATA", help="Pictures to find int8's ranges by, and others to measure all on.")
@click.option("--split", help="Which split of DATA, such as train.")
@click.option(
    "--max-flips",
    type=click.FloatRange(0, 100),
    default=1.0,
    show_default=True,
    metavar="PERCENT",
    help="Refuse bf16 and int8 that change more top-1 answers than this.",
)
@click.option("--layers", metavar="FILE", help="Write the error of each layer in int8 to a CSV file.")
@click.option("--backbone", is_flag=True, help="Add the graph of the net's features, for pictures of any size.")
@click.option("--any-size", is_flag=True, help="Add OpenVINO graphs that resize and crop, for pictures as decoded.")
@click.option(
    "--deploy",
    "servers",
    multiple=True,
    metavar="SERVER",
    help="Add the repository of a model server: triton, ovms or kserve; may be given again.",
)
@click.option("--storage-uri", metavar="URI", help="Where KServe is to fetch its repository from.")
@click.option("--overwrite", is_flag=True, help="Replace an artefact that is there.")
@json_option
def export(
    name: str,
    out: str,
    like: str | None,
    formats: tuple[str, ...],
    stored: str,
    precisions: tuple[str, ...],
    calibrate: str | None,
    split: str | None,
    max_flips: float,
    layers: str | None,
    backbone: bool,
    any_size: bool,
    servers: tuple[str, ...],
    storage_uri: str | None,
    overwrite: bool,
    json: bool,
) -> int:
    """Make an artefact of a checkpoint or of published weights, and measure how far its answers are from the net's.

    NAME is what 'anabranch train' wrote, any zoo's file, or the name of weights in the catalogue, which are fetched.
    """
    from anabranch.verbs import export

    return export.run(
        name,
        out=out,
        like=like,
        formats=formats,
        stored=stored,
        precisions=precisions,
        calibrate=calibrate,
        split=split,
        max_flips=max_flips,
        layers=layers,
        backbone=backbone,
        any_size=any_size,
        servers=servers,
        storage_uri=storage_uri,
        overwrite=overwrite,
        json=json,
    )


if __name__ == "__main__":
    main()

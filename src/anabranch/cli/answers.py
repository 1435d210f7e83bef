"""Verbs about models that answer: made, asked, measured, compared."""

from __future__ import annotations

import click

from anabranch.cli.options import engine_options, json_option, model_option, rotate_option
from anabranch.errors import UsageError


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@model_option
@click.option("--top", default=5, show_default=True, metavar="K", help="Classes shown for each picture.")
@click.option("--csv", "csv_file", metavar="FILE", help="Write a row for each picture to FILE; - for standard output.")
@click.option("--resume", is_flag=True, help="Go on with the FILE of --csv where a run was stopped.")
@click.option("--scaled-decode", "scaled", is_flag=True, help="Decode large JPEGs smaller: sooner, and not exact.")
@rotate_option
@engine_options
@json_option
def classify(
    images: tuple[str, ...],
    model: str | None,
    top: int,
    csv_file: str | None,
    resume: bool,
    scaled: bool,
    rotate_exif: bool,
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
    return classify.run(
        predictor,
        sources,
        asked=images,
        top=top,
        json=json,
        csv_file=csv_file,
        resume=resume,
        scaled=scaled,
        rotate_exif=rotate_exif,
    )


@click.command()
@click.argument("data")
@model_option
@click.option("--split", help="Of a set that holds several: train, test, val.")
@click.option("--labels", metavar="FILE", help="The labels of a flat folder: lines of 'picture label'.")
@click.option("--record", "results", metavar="FILE", help="Append the score, machine and versions to a .jsonl file.")
@rotate_option
@engine_options
@json_option
def evaluate(
    data: str,
    model: str | None,
    split: str | None,
    labels: str | None,
    results: str | None,
    rotate_exif: bool,
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
    return evaluate.run(
        predictor, data, split=split, labels=labels, rotate_exif=rotate_exif, json=json, results=results
    )


@click.command()
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


@click.command()
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
    "--measure",
    type=click.IntRange(min=32),
    metavar="N",
    help="Measure on up to N pictures of DATA.  [default: 1000]",
)
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
    measure: int | None,
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
        measure=measure,
        max_flips=max_flips,
        layers=layers,
        backbone=backbone,
        any_size=any_size,
        servers=servers,
        storage_uri=storage_uri,
        overwrite=overwrite,
        json=json,
    )

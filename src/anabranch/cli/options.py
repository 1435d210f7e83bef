"""Options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Verb = TypeVar("Verb", bound=Callable[..., Any])

json_option = click.option("--json", is_flag=True, help="Print JSON for machines.")
rotate_option = click.option(
    "--rotate-exif", is_flag=True, help="Turn photos upright as EXIF says: as PaddleClas and mmpretrain read them."
)
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

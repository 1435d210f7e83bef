"""`anabranch export`: a checkpoint, or published weights, become an artefact."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from anabranch.artefact import refuse_to_replace
from anabranch.errors import need
from anabranch.runtimes.open import ENGINES
from anabranch.screen import print_json
from anabranch.verbs.models import checkpoint


def run(
    name: str, *, out: str, like: str | None, formats: Sequence[str], stored: str, overwrite: bool, json: bool
) -> int:
    refuse_to_replace(Path(out), overwrite=overwrite)  # before a long download
    need("torch", extra="torch")
    need("onnxscript", extra="torch")
    from anabranch.card import card_to_json
    from anabranch.pack import pack_checkpoint

    found = checkpoint(name)
    card = pack_checkpoint(
        found.file, out, like=like or found.like, formats=formats or None, stored=stored, overwrite=overwrite
    )
    if json:
        print_json(card_to_json(card))
        return 0
    size_bytes = sum(path.stat().st_size for path in Path(out).rglob("*") if path.is_file())
    print(f"{out}: {card.weights.name}, {card.num_classes} classes, {size_bytes / 1e6:.1f} MB")
    for engine, precisions in card.agreement.items():
        for precision, met in precisions.items():
            print(
                f"  {engine} {precision}: at most {met.max_abs:.2g} from the net, on logits up to "
                f"{met.largest_logit:.3g}; {met.top1_flips} of {met.num_pictures} top-1 answers differ"
            )
    print(f"  measured on {card.pictures}")
    if left_out := [each for each in ENGINES if each not in card.agreement and not formats]:
        print(f"  not for {', '.join(left_out)}, which is not installed: pip install 'anabranch[{left_out[0]}]'")
    return 0

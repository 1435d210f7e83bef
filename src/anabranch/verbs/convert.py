"""`anabranch convert`: a checkpoint from any zoo's layout into any other's."""

from __future__ import annotations

from pathlib import Path

from anabranch.errors import need


def run(
    file: str,
    *,
    out: str,
    to: str,
    told: str,
    architecture: str | None,
    like: str | None,
    ema: bool,
    overwrite: bool,
) -> int:
    need("torch", extra="torch")
    from anabranch.checkpoints.convert import convert
    from anabranch.nets.spelling import describe

    done = convert(
        Path(file), Path(out), to=to, told=told, architecture=architecture, like=like, ema=ema, overwrite=overwrite
    )
    size_mb = Path(out).stat().st_size / 1e6
    print(f"{out}: {describe(done.spec)} as {done.dialect} spells it, {done.num_tensors} tensors, {size_mb:.1f} MB")
    return 0

"""`anabranch shards`: a labelled set written as WebDataset shards."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path

from anabranch.images.labelled import open_labelled
from anabranch.images.shards import write_shards
from anabranch.screen import print_json
from anabranch.verbs.progress import progress_bar


def run(data: str, *, out: str, split: str | None, labels: str | None, max_mb: int, seed: int, json: bool) -> int:
    pictures = open_labelled(Path(data), split=split, labels=Path(labels) if labels else None)
    with progress_bar("writing", len(pictures)) if sys.stderr.isatty() else nullcontext(lambda: None) as advance:
        shards = write_shards(pictures, Path(out), max_bytes=max_mb * 1_000_000, seed=seed, report=advance)
    size_bytes = sum(shard.stat().st_size for shard in shards)
    classes = len(pictures.class_names) if pictures.class_names is not None else None
    if json:
        told = {"folder": out, "shards": [shard.name for shard in shards], "size_bytes": size_bytes, "seed": seed}
        print_json({**told, "pictures": len(pictures), "classes": classes})
        return 0
    count = "1 shard" if len(shards) == 1 else f"{len(shards)} shards"
    print(f"{out}: {len(pictures)} pictures in {count}, {size_bytes / 1e6:.1f} MB")
    if classes is None:
        print("  the set does not name its classes; put their names into classes.json, an array of strings")
    else:
        print(f"  {classes} classes, their names in classes.json")
    return 0

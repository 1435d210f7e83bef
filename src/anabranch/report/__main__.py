"""`python -m anabranch.report FILE...` renews the generated tables of documents."""

from __future__ import annotations

import sys
from pathlib import Path

from anabranch.report.zoo import TABLES, filled

for name in sys.argv[1:]:
    path = Path(name)
    text = path.read_text(encoding="utf-8")
    for place, table in TABLES.items():
        text = filled(text, place, table())
    path.write_text(text, encoding="utf-8")
    print(f"renewed {path}")

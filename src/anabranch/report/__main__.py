"""`python -m anabranch.report FILE...` renews the generated tables of documents."""

from __future__ import annotations

import sys
from pathlib import Path

from anabranch.report.zoo import filled, zoo_table

for name in sys.argv[1:]:
    path = Path(name)
    path.write_text(filled(path.read_text(encoding="utf-8"), "zoo", zoo_table()), encoding="utf-8")
    print(f"renewed {path}")

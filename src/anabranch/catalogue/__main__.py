"""`python -m anabranch.catalogue` reads the TOML files strictly and writes index.json."""

from __future__ import annotations

import sys

from anabranch.catalogue.index import INDEX
from anabranch.catalogue.source import read, write
from anabranch.errors import Error

if __name__ == "__main__":
    try:
        write(read())
    except Error as error:
        sys.exit(f"error: {error}")
    print(f"wrote {INDEX}")

"""The published file of a set of weights: downloaded once, verified, kept in the cache.

fetched(weights)    the file's path
fetch(weights)      and where it is from, how long it is, its hash, and what it was verified against
"""

from anabranch.errors import FetchError
from anabranch.fetch.connection import Patience
from anabranch.fetch.kept import Fetched
from anabranch.fetch.progress import Progress, Report
from anabranch.fetch.weights import fetch, fetched

__all__ = ["FetchError", "Fetched", "Patience", "Progress", "Report", "fetch", "fetched"]

"""The published file of a set of weights: downloaded once, verified, kept in the cache.

fetched(weights)    the file's path
fetch(weights)      and where it is from, how long it is, its hash, and what it was verified against
"""

from anabranch.errors import FetchError
from anabranch.fetch.download import Patience
from anabranch.fetch.kept import Fetched
from anabranch.fetch.weights import Progress, fetch, fetched

__all__ = ["FetchError", "Fetched", "Patience", "Progress", "fetch", "fetched"]

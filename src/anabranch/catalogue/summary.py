"""The catalogue as rows: one line an architecture, and everything about one name."""

from __future__ import annotations

from typing import Any, NamedTuple

from anabranch.arch import arch, arch_to_json
from anabranch.catalogue.facts import Claim, Weights
from anabranch.catalogue.find import Found, names_of, weights_of
from anabranch.catalogue.index import Counted, counts, index


class Row(NamedTuple):
    """One architecture in a list."""

    name: str
    counted: Counted
    weights: list[Weights]

    def claimed(self) -> list[tuple[float, Weights, Claim]]:
        """Published top-1 with whose it is, lowest first."""
        claims = [(claim.top1, entry, claim) for entry in self.weights for claim in entry.claims if claim.top1]
        return sorted(claims, key=lambda each: each[0])

    def as_json(self) -> dict[str, Any]:
        claimed = self.claimed()
        best = claimed[-1] if claimed else None
        return {
            "name": self.name,
            **self.counted._asdict(),
            "names": names_of(self.name)[1:],
            "weights": [entry.name for entry in self.weights],
            "published_top1": best and {"lowest": claimed[0][0], "highest": best[0], "weights": best[1].name},
        }


ORDERS = {
    "name": lambda row: row.name,
    "params": lambda row: row.counted.params,
    "macs": lambda row: row.counted.macs,
    "top1": lambda row: row.claimed()[-1][0] if row.claimed() else 0.0,
}


def row(name: str) -> Row:
    return Row(name, counts()[name], weights_of(name))


def as_json(found: Found) -> dict[str, Any]:
    """Everything known of one name."""
    shown = [found.weights] if found.weights else weights_of(found.architecture)
    return {
        "name": found.name,
        "architecture": found.architecture,
        "weights": found.weights.name if found.weights else None,
        "spec": arch_to_json(arch(found.architecture)),
        "counted": counts()[found.architecture]._asdict(),
        "names": names_of(found.architecture),
        "claims": [claim_as_json(entry, claim) for entry in shown for claim in entry.claims],
        "homonyms": [
            {
                "architecture": entry.architecture,
                "weights": entry.name,
                "publisher": entry.publisher,
                "claims": [claim_as_json(entry, claim) for claim in entry.claims if claim.printed == found.name],
            }
            for entry in found.homonyms
        ],
    }


def claim_as_json(entry: Weights, claim: Claim) -> dict[str, Any]:
    document = index().documents[claim.document]
    figures = {field: getattr(claim, field) for field in claim.__slots__ if field != "document"}
    return {
        "weights": entry.name,
        "publisher": document.publisher,
        "document": document.title,
        "url": document.url,
        "quoted_by": document.quoted_by,
        **figures,
    }


def misclaims(entry: Weights, claim: Claim) -> str | None:
    """How a claim's parameters differ from the counted ones, where they do by more than one percent."""
    counted = counts()[entry.architecture].params / 1e6
    if claim.params_m is None or abs(claim.params_m - counted) <= counted / 100:
        return None
    return f"claimed {claim.params_m:.2f} M, counted {counted:.2f} M"

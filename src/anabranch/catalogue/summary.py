"""The catalogue as rows: one an architecture or one a set of weights, and everything about one name."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from anabranch.arch import arch, arch_to_json
from anabranch.catalogue.facts import Claim, Weights
from anabranch.catalogue.find import Found, names_of, weights_of
from anabranch.catalogue.index import Counted, counts, index
from anabranch.errors import UnknownName


class Row(NamedTuple):
    """One architecture in a list, with all of its weights, some or one."""

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
    "top5": lambda row: max((claim.top5 or 0.0 for entry in row.weights for claim in entry.claims), default=0.0),
}


def row(name: str) -> Row:
    return Row(name, counts()[name], weights_of(name))


def rows_of_weights(fitting: dict[str, list[str]]) -> list[Row]:
    """A row for each set of weights that one of the fitting names means, its own or its architecture's.

    `fitting`: what `find.matching` gives. Raises UnknownName where there are none.
    """
    rows = []
    for architecture, names in fitting.items():
        published = weights_of(architecture)
        own = {entry.name: {entry.name, *entry.aliases} for entry in published}
        all_fit = not set(names) <= set().union(*own.values())
        rows += [
            Row(architecture, counts()[architecture], [entry])
            for entry in published
            if all_fit or not own[entry.name].isdisjoint(names)
        ]
    if not rows:
        raise UnknownName(f"no weights of {', '.join(fitting)} are known; with --nets they are listed all the same")
    return rows


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
        "files": [file_as_json(entry) for entry in shown],
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


def file_as_json(entry: Weights) -> dict[str, Any]:
    """Where weights lie and how they are used."""
    return {
        "weights": entry.name,
        "publisher": entry.publisher,
        "licence": entry.licence,
        "non_commercial": entry.non_commercial,
        "dialect": entry.dialect,
        "urls": list(entry.urls),
        "sha256": entry.sha256,
        "input": dataclasses.asdict(entry.input),
        "test_input": entry.test_input and dataclasses.asdict(entry.test_input),
    }


def weights_as_json(each: Row) -> dict[str, Any]:
    """A row of one set of weights, with all that is known of them."""
    [entry] = each.weights
    return {
        **file_as_json(entry),
        "architecture": each.name,
        **each.counted._asdict(),
        "names": list(entry.aliases),
        "claims": [
            {**claim_as_json(entry, claim), "misclaims": list(misclaims(entry, claim).values())}
            for claim in entry.claims
        ],
    }


def misclaims(entry: Weights, claim: Claim) -> dict[str, str]:
    """Figure -> how it differs from the counted one, of those that do by more than one percent.

    FLOPs are right as multiply-accumulates and as twice their number: both are in use. At another input size than that
    of counts.csv neither is judged.
    """
    counted = counts()[entry.architecture]
    params, macs = counted.params / 1e6, counted.macs / 1e9
    found = {}
    if _differs(claim.params_m, params):
        found["params_m"] = f"claimed {claim.params_m:.2f} M, counted {params:.2f} M"
    if claim.input_px == counted.input_px:
        if _differs(claim.flops_g, macs, 2 * macs):
            found["flops_g"] = f"claimed {claim.flops_g:.2f} G FLOPs, counted {macs:.2f} G MACs"
        if _differs(claim.macs_g, macs):
            found["macs_g"] = f"claimed {claim.macs_g:.2f} G MACs, counted {macs:.2f} G"
    return found


def _differs(claimed: float | None, *right: float) -> bool:
    return claimed is not None and all(abs(claimed - each) > each / 100 for each in right)

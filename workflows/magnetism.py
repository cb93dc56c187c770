"""Candidates in each of their magnetic orders, and what of a campaign's magnets cannot be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.relaxation.settings import RelaxationSettings
from ccdcgan.dft.structures.magnetic_orders import magnetic_orders
from ccdcgan.dft.structures.moments import moments_of, order_of
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.documents import Candidate


def in_orders(candidates: Sequence[Candidate], relaxation: RelaxationSettings) -> list[Candidate]:
    """The candidates, each followed by its further orders of magnetic moments.

    The ferromagnetic one has no moments of its own: it is what any engine begins with.
    """
    most = relaxation.magnetic_orders - 1
    if not (most and relaxation.engine.is_magnetic):
        return list(candidates)
    return [order for candidate in candidates for order in _orders(candidate, relaxation, most)]


def _orders(candidate: Candidate, relaxation: RelaxationSettings, most: int) -> Iterator[Candidate]:
    yield candidate
    if moments_of(candidate.structure) is not None:
        return
    found = magnetic_orders(candidate.structure, relaxation.engine.starting_moments, most)
    for number, structure in enumerate(found, 1):
        origin = candidate.origin.model_copy(
            update={"magnetic_order": f"{order_of(structure)} {number}"}
        )
        yield Candidate(origin=origin, structure=structure)


def require_magnets(campaign: Campaign) -> None:
    """See that a campaign's magnetic moments are of its elements.

    Raises
    ------
    UserError
        They are not; the message names the setting.
    """
    for name, relaxation in campaign.relaxations.items():
        engine = relaxation.engine
        place = "confirm.relaxation" if name == "confirmation" else name
        given = [str(name) for name in getattr(engine, "incar", {}).get("MAGMOM") or ()]
        # As Fe3+.
        absent = [e for e in given if e.rstrip("0123456789+-") not in campaign.elements]
        if absent:
            raise UserError(
                f"{place}.engine.incar.MAGMOM: {', '.join(absent)} is not of the system "
                f"{'-'.join(campaign.elements)}: leave it out"
            )
        if relaxation.magnetic_orders > 1 and not set(campaign.elements) & {
            element for element, moment in engine.starting_moments.items() if moment
        }:
            raise UserError(
                f"{place}.magnetic_orders: {'-'.join(campaign.elements)} has no element that is "
                "magnetic by itself: leave it out, or give moments in engine.incar.MAGMOM of vasp"
            )

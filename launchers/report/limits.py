"""What limits a campaign's funnel, in words."""

from __future__ import annotations

from collections.abc import Iterator

from ccdcgan.launchers.report.sections import count, text
from ccdcgan.workflows.documents import Outcome

#: A step that fewer pass than this is told of with what may be done; and of relaxations one on
#: which more than this share is lost.
FEW, MUCH = 0.5, 0.15


def limits(outcome: Outcome) -> str:
    """What becomes of the candidates, and where most are lost; nothing without a round."""
    found = list(_sentences(outcome))
    listed = "".join(f"<li>{text(sentence)}</li>" for sentence in found)
    return f'<ul class="limits">{listed}</ul>' if found else ""


def _sentences(outcome: Outcome) -> Iterator[str]:
    rounds = outcome.summary.rounds
    names = ("sampled", "decoded", "valid", "screened", "relaxed", "converged", "distinct")
    total = {name: sum(getattr(r, name) for r in rounds) for name in names}
    near = sum(r.distinct_within.get("0.1", 0) for r in rounds)
    if not total["sampled"]:
        return
    yield (
        f"Of {count(total['sampled'])} candidates {_share(total['decoded'], total['sampled'])} "
        f"could be decoded and {_share(total['valid'], total['sampled'])} are sane crystals."
    )
    if total["valid"] < FEW * total["decoded"]:
        yield (
            "Most decoded crystals are not sane, with atoms on each other or volumes beyond those "
            "that are known: more or other prototypes, or longer training, is what helps."
        )
    yield _choice(outcome, total)
    if not total["relaxed"]:
        return
    converged, new, close = (
        _share(part, total["relaxed"]) for part in (total["converged"], total["distinct"], near)
    )
    yield (
        f"Of {count(total['relaxed'])} that were relaxed {converged} converged, {new} are new, and "
        f"{close} are new and within 0.10 eV/atom of the hull."
    )
    steps = {
        "do not converge: raise relaxation.max_steps, or see below why they failed": (
            total["converged"],
            total["relaxed"],
        ),
        "become crystals that are known already: further elements, sources or cells "
        "(loop.screening.max_sites) are what is left to search": (
            total["distinct"],
            total["converged"],
        ),
        "are new and more than 0.10 eV/atom above the hull: what judges them before, constraint "
        "and learnt potential, is what to improve, by more relaxations to learn from": (
            near,
            total["distinct"],
        ),
    }
    lost, (passed, there) = max(steps.items(), key=lambda step: step[1][1] - step[1][0])
    if there - passed > MUCH * total["relaxed"]:
        yield f"Most relaxations are lost on those that {lost} ({count(there - passed)})."


def _choice(outcome: Outcome, total: dict[str, int]) -> str:
    """Whether the number of relaxations or the want of good candidates is the limit."""
    chosen, valid = total["screened"], total["valid"]
    loop = outcome.provenance.campaign.get("loop", {}) if outcome.provenance else {}
    may = loop.get("relaxations") if isinstance(loop, dict) else None
    asked = may * len(outcome.summary.rounds) if isinstance(may, int) else None
    if asked is None:
        return f"{count(chosen)} of these were chosen for relaxation."
    if chosen >= asked:
        return (
            f"All {count(asked)} relaxations that loop.relaxations allows were used: the choice "
            f"among {count(valid)} crystals is the limit, and more relaxations would look at more."
        )
    return (
        f"{count(chosen)} of {count(asked)} relaxations that loop.relaxations allows were used: "
        "good candidates are the limit, not relaxations; the others were known already, predicted "
        "to be too high, or without a gain to be expected."
    )


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f}%" if whole else "none"

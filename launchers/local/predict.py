"""Crystal structures of given compositions: ``ccdcgan predict``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from itertools import permutations
from math import ceil
from pathlib import Path
from time import monotonic

from pydantic import BaseModel, ConfigDict, Field
from ruamel.yaml import YAML

from ccdcgan.dft.engines.base import LevelOfTheory
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.files import writing
from ccdcgan.dft.mistakes import shown
from ccdcgan.dft.structures.decoding import StoredStructure
from ccdcgan.dft.systems import composition_of, electronegativity
from ccdcgan.launchers.workdir import CAMPAIGN_FILE
from ccdcgan.workflows.campaign import REFINE, Campaign, load_campaign, parse_campaign
from ccdcgan.workflows.documents import Outcome, Phase
from ccdcgan.workflows.screening import require_fitting_groups

#: Relaxations of a round, candidates that they are chosen from, and prototypes that the networks
#: begin with.
ROUND, SAMPLES, PROTOTYPES = 20, 2000, 60

#: Fewest prototypes of a small budget: with less, too few may be left to learn from.
FEWEST = 24

#: What a campaign of the user's decides beside the composition.
OF_THE_BASE = {"relaxation", "networks", "thresholds", "workers", "trusted"}

#: Most rounds, whatever the budget.
MOST_ROUNDS = 100


class PredictedStructure(BaseModel):
    """A crystal of the formula."""

    structure: StoredStructure
    energy_per_atom: float = Field(description="eV/atom at the level of theory.")
    e_above_lowest: float = Field(description="eV/atom.")
    spacegroup: str
    origin: str
    source: str = Field(description="What proposed it: prototype, or a proposal source.")


class Prediction(BaseModel):
    """The crystals that were found of one composition, lowest first."""

    formula: str
    level_of_theory: LevelOfTheory
    seconds: float = Field(description="Of this command.")
    relaxed: int = Field(description="Relaxations in all, of elements and other formulas, too.")
    structures: list[PredictedStructure]


class Wishes(BaseModel):
    """What is asked of the crystals of a composition, and of the search."""

    model_config = ConfigDict(frozen=True)

    max_sites: int = Field(20, description="Most atoms in the cell.")
    without_prototypes: bool = Field(
        False,
        description="Whether all prototypes of the formula's type are left out: of AB2 as of A2B, "
        "since atoms that change places make one of the other.",
    )
    seed: int = 0
    spacegroups: tuple[str, ...] = ()
    crystal_systems: tuple[str, ...] = ()
    pressure: float | None = Field(None, description="GPa; None for that of the base.")


def campaign_of(
    formula: str,
    wishes: Wishes | None = None,
    base: Campaign | None = None,
    rounds: int = 1,
    prototypes: int = PROTOTYPES,
) -> Campaign:
    """The campaign that searches for crystals of one composition.

    Parameters
    ----------
    base
        Where its relaxations, networks and number of workers come from.
    rounds, prototypes
        How many; `rounds_of` and `prototypes_of` follow a budget.

    Raises
    ------
    UserError
        The formula is none, of one element, or of more atoms than `Wishes.max_sites`; a space group
        does not fit it; or the engine has no stress for the pressure.
    """
    wishes = wishes or Wishes()
    elements = _elements_of(formula)
    data = (base or Campaign()).model_dump(mode="json", exclude_unset=True, include=OF_THE_BASE)
    relaxation = data.setdefault("relaxation", {})
    relaxation.setdefault("refine", REFINE)
    if wishes.pressure is not None:
        relaxation["pressure"] = wishes.pressure
    # Few atoms of one composition are also found by chance.
    sources = [*(["random"] if find_spec("pyxtal") else []), *Campaign().sources]
    data |= {
        "system": elements,
        "seed": wishes.seed,
        "search": {
            "compositions": [formula],
            "spacegroups": wishes.spacegroups,
            "crystal_systems": wishes.crystal_systems,
        },
        "database": {
            "sources": [{"source": "aflow"}],
            "filters": {"max_sites": wishes.max_sites, "max_length": 15.0},
            "max_candidates": prototypes,
            # Their own structures are those without pressure.
            "elements": "all" if relaxation.get("pressure") else "own",
            "without": _of_type(formula) if wishes.without_prototypes else [],
        },
        "loop": {
            "rounds": rounds,
            "samples": SAMPLES,
            "sources": sources,
            "relaxations": ROUND,
            "screening": {"max_sites": wishes.max_sites, "per_formula": ROUND},
        },
    }
    campaign = parse_campaign(data, formula)
    require_fitting_groups(campaign)
    if campaign.relaxation.engine.is_potential:
        campaign.relaxation.check(elements)
    return campaign


def campaigns_of(
    formulas: Sequence[str],
    wishes: Wishes | None = None,
    base: Campaign | None = None,
    rounds: int = 1,
    prototypes: int = PROTOTYPES,
) -> dict[str, Campaign]:
    """The campaigns of several compositions, by their reduced formulas.

    Raises
    ------
    UserError
        As of `campaign_of`, or two formulas are of one composition.
    """
    found: dict[str, Campaign] = {}
    for formula in formulas:
        campaign = campaign_of(formula, wishes, base, rounds, prototypes)
        (reduced,) = campaign.search.compositions
        if reduced in found:
            raise UserError(f"{reduced} is asked for twice: name each composition once")
        found[reduced] = campaign
    return found


def prototypes_of(budget: int) -> int:
    """Prototypes with which a search of so many relaxations begins: half of them at most."""
    return max(FEWEST, min(PROTOTYPES, budget // 2))


def rounds_of(budget: int) -> int:
    """Rounds after which about so many structures have been relaxed."""
    return min(max(1, ceil((budget - prototypes_of(budget)) / ROUND)), MOST_ROUNDS)


def write_campaign(campaign: Campaign, path: Path) -> None:
    """Write a campaign as a file that ``ccdcgan submit`` and ``run`` take.

    Raises
    ------
    UserError
        There is a file already.
    """
    if path.exists():
        raise UserError(f"{path} exists already: choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path) as stream:
        YAML().dump(campaign.model_dump(mode="json", exclude_unset=True), stream)


def _of_type(formula: str) -> list[str]:
    """All formulas of the elements in which the numbers of a formula are dealt out anew."""
    amounts = composition_of(formula).reduced_composition.get_el_amt_dict()
    return [
        "".join(f"{symbol}{n:g}" for symbol, n in zip(amounts, dealt, strict=True))
        for dealt in permutations(amounts.values())
    ]


def _elements_of(formula: str) -> list[str]:
    amounts = composition_of(formula)
    symbols = {e.symbol for e in amounts.elements}
    # In the order in which formulas have them: electropositive first.
    elements = sorted(symbols, key=lambda symbol: (electronegativity(symbol), symbol))
    if any(number != round(number) for number in amounts.values()):
        raise UserError(f"{shown(formula)} has parts of atoms: give whole numbers, as Bi2Se3")
    if len(elements) < 2:
        raise UserError(
            f"{formula} has one element: predict needs a compound; structures of elements are in "
            "docs/elements.md"
        )
    return elements


def predict(
    campaign: Campaign,
    folder: Path,
    budget: int,
    minutes: float | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Prediction:
    """Crystals of the composition that a campaign searches for, after at most so many relaxations.

    The same call goes on where an earlier one was stopped, and with a larger budget.

    Parameters
    ----------
    budget
        No further round begins once so many structures have been relaxed. It begins with
        `prototypes_of` it, or as many as the folder began with.
    minutes
        Nor after this time; None for no limit. The first round is always done.
    """
    # With all that runs a campaign it takes seconds, which a mistake need not wait for.
    from ccdcgan.launchers.local.run import run_campaign

    start = monotonic()
    # With others it would draw others, and what is there would not be found again.
    begun = load_campaign(file) if (file := folder / CAMPAIGN_FILE).exists() else None
    prototypes = begun.database.max_candidates if begun else prototypes_of(budget)
    database = campaign.database.model_copy(update={"max_candidates": prototypes})
    campaign = campaign.model_copy(update={"database": database})
    for number in range(1, MOST_ROUNDS + 1):
        loop = campaign.loop.model_copy(update={"rounds": number})
        outcome = run_campaign(campaign.model_copy(update={"loop": loop}), folder, say=say)
        relaxed = len(outcome.phases) + len(outcome.failed)
        found = prediction(campaign, outcome, monotonic() - start, relaxed)
        if found.structures:
            lowest = found.structures[0]
            say(
                f"{found.formula}, {relaxed} relaxed: lowest {lowest.energy_per_atom:.4f} eV/atom, "
                f"{lowest.spacegroup}, by {lowest.source}"
            )
        late = minutes is not None and monotonic() - start > 60 * minutes
        if relaxed >= budget or late:
            break
    return found


def prediction(campaign: Campaign, outcome: Outcome, seconds: float, relaxed: int) -> Prediction:
    """What a campaign has found of the composition that it searches for."""
    (formula,) = campaign.search.compositions
    own = [
        (p.energy_per_atom, p)
        for p in outcome.phases
        if p.formula == formula
        and p.converged
        and p.distinct
        and p.label != "untrusted"
        and p.energy_per_atom is not None
    ]
    own.sort(key=lambda pair: pair[0])
    return Prediction(
        formula=formula,
        level_of_theory=outcome.summary.level_of_theory,
        seconds=seconds,
        relaxed=relaxed,
        structures=[_predicted(phase, energy, own[0][0]) for energy, phase in own],
    )


def _predicted(phase: Phase, energy: float, lowest: float) -> PredictedStructure:
    return PredictedStructure(
        structure=phase.structure,
        energy_per_atom=energy,
        e_above_lowest=energy - lowest,
        spacegroup=phase.spacegroup,
        origin=phase.origin.id,
        source=phase.origin.source_name,
    )

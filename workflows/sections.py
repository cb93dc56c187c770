"""Sections of a campaign file: database, networks, loop with its screening, confirmation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.mistakes import did_you_mean, shown
from ccdcgan.dft.relaxation.properties import PROPERTIES
from ccdcgan.dft.relaxation.settings import RelaxationSettings
from ccdcgan.dft.settings import Renamed, Settings, VolumeRange
from ccdcgan.dft.structures.sources import AflowSource, Filters, Source
from ccdcgan.dft.structures.spacegroups import CrystalSystem, groups_of, number_of
from ccdcgan.dft.systems import composition_of
from ccdcgan.models.energy.goals import FORMATION_ENERGY, Goal
from ccdcgan.workflows.sources.registry import check_source

#: A training needs at least this many crystals that hold every element.
SMALLEST_DATABASE = 15


#: Properties of crystals that goals may name.
KNOWN_PROPERTIES = (FORMATION_ENERGY, "e_above_hull", "volume_per_atom", "density", *PROPERTIES)


def _reduced(formulas: tuple[str, ...]) -> tuple[str, ...]:
    """Reduced formulas, sorted: what is asked for alike is the same campaign."""
    try:
        return tuple(sorted({composition_of(formula).reduced_formula for formula in formulas}))
    except UserError as error:
        raise ValueError(str(error)) from None


Formulas = Annotated[tuple[str, ...], AfterValidator(_reduced)]


def _numbers(groups: tuple[int | str, ...]) -> tuple[int, ...]:
    """Numbers of space groups, sorted: what is asked for alike is the same campaign."""
    return tuple(sorted({number_of(group) for group in groups}))


def _sorted(systems: tuple[CrystalSystem, ...]) -> tuple[CrystalSystem, ...]:
    return tuple(sorted(set(systems)))


class SearchSettings(Settings):
    """What is searched for among all crystals of the system."""

    added: ClassVar[frozenset[str]] = frozenset({"spacegroups", "crystal_systems"})

    compositions: Formulas = Field(
        (), description="Formulas, as in [Bi2Se3, Bi4Se3]; empty for all."
    )
    min_sites: int = Field(1, ge=1, description="Fewest atoms in the cell.")
    spacegroups: Annotated[tuple[int | str, ...], AfterValidator(_numbers)] = Field(
        (), description="Space groups, as in [166, Fm-3m]; empty for all."
    )
    crystal_systems: Annotated[tuple[CrystalSystem, ...], AfterValidator(_sorted)] = Field(
        (), description="Crystal systems, as in [cubic, trigonal], beside the space groups."
    )

    @property
    def groups(self) -> frozenset[int]:
        """Numbers of the space groups that are searched for; none for all."""
        own = {number_of(group) for group in self.spacegroups}
        return frozenset(own.union(*map(groups_of, self.crystal_systems)))


class DatabaseSettings(Settings):
    """Stage 1: which prototypes are substituted and relaxed."""

    added: ClassVar[frozenset[str]] = frozenset({"without", "own_element_sites", "elements"})

    sources: tuple[Source, ...] = Field(
        (AflowSource(),),
        min_length=1,
        description="Where prototypes come from: aflow, files, random, materials_project.",
    )
    filters: Filters = Filters()
    max_candidates: int | None = Field(
        None,
        ge=20,
        description="Small cells first, then cut here, and so for each system of fewer elements, "
        "which the hull needs; null for all.",
    )
    elements: Literal["all", "own"] = Field(
        "all",
        description="End members: the lowest of all elemental prototypes, or each element's own "
        "known structure alone, which is quicker.",
    )
    element_sites: int = Field(
        4, ge=3, description="Most atoms in the cell of a prototype of a pure element."
    )
    own_element_sites: int = Field(
        32,
        ge=1,
        description="Most atoms in the cell of an element's own ground state, such as 32 of S8, "
        "29 of alpha-Mn, 12 of alpha-B12.",
    )
    without: Formulas = Field(
        (), description="Compositions to leave out of the prototypes, as in [Bi2Se3, BiSe]."
    )

    @field_validator("sources")
    @classmethod
    def _each_once(cls, sources: tuple[Source, ...]) -> tuple[Source, ...]:
        if twice := [s for i, s in enumerate(sources) if s in sources[:i]]:
            raise ValueError(f"the source {twice[0].source} is given twice alike: give it once")
        return sources


#: Points that halve to the 4 that the paper's last kernel covers.
PaperGrid = Literal[8, 16, 32, 64]


class NetworkSettings(Settings):
    """Stage 2: representation and networks."""

    added: ClassVar[frozenset[str]] = frozenset({"grid", "lattice_grid", "filters"})

    preset: Literal["quickstart", "default", "paper", "paper-small"] = Field(
        "quickstart", description="Representation, networks and lengths of their trainings."
    )
    autoencoder: Literal["shipped", "train"] = Field(
        "shipped", description="train: on the campaign's own database."
    )
    variant: Literal["ccdcgan", "dcgan+constraint", "dcgan"] = Field(
        "ccdcgan",
        description="The constraint guides the generator, screens what it draws, or neither.",
    )
    omega: float = Field(0.1, ge=0, description="Weight of the goals (paper, eq. 2).")
    goals: tuple[Goal, ...] = Field(
        (Goal(),), min_length=1, description="Properties to minimise, maximise or bring near."
    )
    loss: Literal["wgan-gp", "hinge", "bce"] | None = Field(
        None, description="Replaces the preset's."
    )
    gan_steps: int | None = Field(None, ge=1, description="Replaces the preset's.")
    guide_epochs: int | None = Field(None, ge=1, description="Replaces the preset's.")
    autoencoder_epochs: int | None = Field(None, ge=1, description="Replaces the preset's.")
    grid: PaperGrid | None = Field(
        None, description="Points of the paper's sites voxel along an axis; replaces the preset's."
    )
    lattice_grid: PaperGrid | None = Field(
        None, description="The same of its lattice voxel; replaces the preset's."
    )
    filters: int | None = Field(
        None, ge=1, description="Channels of the paper's autoencoders; replaces the preset's."
    )

    @property
    def are_the_papers(self) -> bool:
        """Whether representation and networks are the paper's, of whatever size."""
        return self.preset in ("paper", "paper-small")

    @field_validator("goals")
    @classmethod
    def _of_known_properties(cls, goals: tuple[Goal, ...]) -> tuple[Goal, ...]:
        for goal in goals:
            if goal.property not in KNOWN_PROPERTIES:
                raise ValueError(
                    f"no crystal has a property {shown(goal.property)}"
                    f"{did_you_mean(goal.property, KNOWN_PROPERTIES)} (known are "
                    f"{', '.join(KNOWN_PROPERTIES)})"
                )
        names = [goal.property for goal in goals]
        if twice := [name for name in KNOWN_PROPERTIES if names.count(name) > 1]:
            raise ValueError(f"two goals for {twice[0]}: give one")
        return goals

    @model_validator(mode="after")
    def _paper_trains(self) -> NetworkSettings:
        if self.are_the_papers and self.autoencoder == "shipped":
            raise ValueError("the paper's autoencoders are not shipped: set autoencoder: train")
        sizes = {"grid": self.grid, "lattice_grid": self.lattice_grid, "filters": self.filters}
        given = [name for name, size in sizes.items() if size is not None]
        if given and not self.are_the_papers:
            raise ValueError(
                f"{given[0]} is of the paper's networks: leave it out, or set preset: paper-small"
            )
        return self


class Screening(Settings):
    """What a decoded crystal must be before it is relaxed."""

    added: ClassVar[frozenset[str]] = frozenset({"within"})

    renamed: ClassVar[Mapping[str, Renamed]] = {
        "selection": Renamed("choose", {"expected_gain": "gain", "none": "any"})
    }

    min_distance: float | None = Field(
        None,
        gt=0,
        le=4,
        description="Shortest distance, Å; null for 0.8 of the shortest in known crystals.",
    )
    volume_range: VolumeRange | None = Field(
        None,
        description="Å³ per atom; null: from 0.6 of the smallest in known crystals to 1.2 of the "
        "largest.",
    )
    max_sites: int = Field(20, ge=2, description="Most atoms in the cell.")
    max_formation_energy: float = Field(
        0.3, ge=-10, description="Highest predicted formation energy, eV/atom (paper: 0.3)."
    )
    selection: Literal["expected_gain", "none", "sample"] = Field(
        "expected_gain",
        description="expected_gain: by the expected gain in energy times the probability to be "
        "new; none: as they were drawn, without what is known; sample: at random, also what is "
        "known, drawn twice or predicted too high, for counting what is drawn.",
    )
    within: float = Field(
        0.025,
        ge=0,
        description="Distance to the hull from which the expected gain counts, eV/atom.",
    )
    per_formula: int = Field(4, ge=1, description="Most crystals of one reduced formula a round.")
    prerelax: int = Field(
        200,
        ge=0,
        description="Steps in a potential learnt from the campaign's relaxations, before the gain "
        "decides; 0 for none.",
    )


class LoopSettings(Settings):
    """Stage 3: rounds of generate, decode, screen, relax."""

    added: ClassVar[frozenset[str]] = frozenset({"stackings", "sources"})

    rounds: int = Field(2, ge=1, description="How often to train, generate and relax.")
    samples: int = Field(4000, ge=1, description="Candidates proposed a round, by all sources.")
    sources: tuple[Annotated[str, AfterValidator(check_source)], ...] | None = Field(
        None,
        min_length=1,
        description="What proposes candidates: generator, variation, substitution, stackings, "
        "random; null for the first four, and for the generator alone where nothing judges.",
    )
    stackings: int = Field(
        0,
        ge=0,
        description="Other stackings of the best known crystals, and of two of them on each other, "
        "that are judged beside the samples of a round.",
    )
    relaxations: int = Field(24, ge=1, description="Generated crystals relaxed a round.")
    screening: Screening = Screening()


class StabilitySettings(Settings):
    """After the last round: phonons and elastic constants of the best crystals."""

    count: int = Field(10, ge=1, description="New crystals, nearest to the hull first.")


class ConfirmationSettings(Settings):
    """Last stage: the best crystals relaxed again, by DFT as a rule."""

    added: ClassVar[frozenset[str]] = frozenset({"workers"})

    relaxation: RelaxationSettings
    count: int = Field(10, ge=1, description="New crystals, nearest to the hull first.")
    workers: int | None = Field(
        None,
        ge=1,
        description="Relaxations at a time; null: as in the campaign if both engines are "
        "potentials or both are DFT codes, else one after the other.",
    )

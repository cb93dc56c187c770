"""The campaign: everything that a user decides, in one readable file."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, field_validator, model_validator
from pymatgen.core import Composition

from ccdcgan.dft.engines import corrections
from ccdcgan.dft.engines.base import CalculatorEngine
from ccdcgan.dft.engines.potentials import SevenNetEngine
from ccdcgan.dft.engines.vasp.settings import VaspEngine
from ccdcgan.dft.engines.vasp.stages import MakerStage
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.files import digest
from ccdcgan.dft.mistakes import validated
from ccdcgan.dft.relaxation.properties import PROPERTIES
from ccdcgan.dft.relaxation.settings import RelaxationSettings
from ccdcgan.dft.settings import HASHED, Settings
from ccdcgan.dft.structures.compositions import multiples
from ccdcgan.dft.structures.hull import Thresholds
from ccdcgan.dft.structures.references import ReferenceSource
from ccdcgan.dft.systems import parse_system
from ccdcgan.dft.trusted import PackageName
from ccdcgan.dft.yaml_files import read_yaml
from ccdcgan.models.energy.goals import FORMATION_ENERGY
from ccdcgan.workflows.sections import (
    ConfirmationSettings,
    DatabaseSettings,
    LoopSettings,
    NetworkSettings,
    SearchSettings,
    StabilitySettings,
)

#: Beginnings of the keys that make a campaign the one it is: what its numbers stand for and what
#: its networks are. All others say how much is done, and where; with other values of theirs a
#: campaign goes on with all that it has.
IDENTITY = (
    "system",
    "seed",
    "database.without",
    "relaxation.",
    "thresholds.",
    "networks.",
    "confirm.relaxation.",
)

#: Ends of keys among them that only say how much is done.
AMOUNTS = (
    ".second_opinion",
    ".max_hours",
    ".magnetic_orders",
    ".batch",
    ".gan_steps",
    ".guide_epochs",
    ".autoencoder_epochs",
)

#: `relaxation.refine` of the presets.
REFINE = 0.01


class Campaign(Settings):
    """One search for new crystals of one chemical system.

    Examples
    --------
    >>> import ccdcgan
    >>> ccdcgan.Campaign(system="Ti-O", seed=1).elements
    ['Ti', 'O']
    """

    added: ClassVar[frozenset[str]] = frozenset(
        {"confirm", "references", "search", "stability", "trusted", "written"}
    )

    system: tuple[str, ...] = Field(("Bi", "Se"), description="Elements, as in Bi-Se.")
    seed: int = Field(0, ge=0, lt=2**24, description="The same seed gives the same crystals.")
    search: SearchSettings = Field(
        SearchSettings(), description="What is generated; by default all of the system."
    )
    database: DatabaseSettings = DatabaseSettings()
    relaxation: RelaxationSettings = RelaxationSettings()
    references: tuple[ReferenceSource, ...] = Field(
        (),
        description="Known crystals of the system or of some of its elements: relaxed once, they "
        "are on the hull from the start, and what matches one is not new.",
    )
    thresholds: Thresholds = Thresholds()
    networks: NetworkSettings = NetworkSettings()
    loop: LoopSettings = LoopSettings()
    confirm: ConfirmationSettings | None = Field(
        None, description="Engine and number for confirming the best; null for none."
    )
    stability: StabilitySettings | None = Field(
        None, description="Phonons and elastic constants of the best; null for none."
    )
    workers: int | None = Field(
        None,
        ge=1,
        description="Relaxations at a time; null: one of VASP, which has all cores, of other "
        "engines one a core.",
    )
    trusted: tuple[PackageName, ...] = Field(
        (),
        description="Packages of your own whose makers a run on this machine may import; on a "
        "cluster those of my_fireworks.yaml count.",
    )
    written: dict[str, str] = Field(
        {},
        description="Whole paths, and how the campaign file has them; filled in where it is read.",
    )

    @field_validator("system", mode="before")
    @classmethod
    def _parse_system(cls, value: Any) -> tuple[str, ...]:
        try:
            return tuple(parse_system(value))
        except UserError as error:
            raise ValueError(str(error)) from None

    @model_validator(mode="after")
    def _leaves_out_compounds(self) -> Campaign:
        for formula in self.database.without:
            if {str(e) for e in Composition(formula)} != set(self.system):
                raise ValueError(
                    f"database.without: {formula!r} is no compound of {'-'.join(self.system)}, of "
                    "all its elements and no other"
                )
        return self

    @model_validator(mode="after")
    def _can_be_searched(self) -> Campaign:
        least, most = max(self.search.min_sites, len(self.system)), self.loop.screening.max_sites
        if least > most:
            raise ValueError(
                f"loop.screening.max_sites is {most}, and search.min_sites with "
                f"{len(self.system)} elements asks for {least} atoms at least: nothing can be found"
            )
        try:
            self.searched()
        except UserError as error:
            raise ValueError(f"search.compositions: {error}") from None
        return self

    @model_validator(mode="after")
    def _can_be_corrected(self) -> Campaign:
        for name, relaxation in self.relaxations.items():
            engine = relaxation.engine
            if relaxation.corrections == "mp2020" and not engine.mixes_scales:
                raise ValueError(
                    f"{name}.corrections: the energies of {engine.name} as set here are not the "
                    "mixture of GGA and GGA+U that mp2020 corrects: set it to none"
                )
        return self

    @model_validator(mode="after")
    def _is_confirmed_under_its_pressure(self) -> Campaign:
        pressures = {name: r.pressure for name, r in self.relaxations.items()}
        if len(set(pressures.values())) > 1:
            raise ValueError(
                f"confirm.relaxation.pressure is {pressures['confirmation']:g} GPa and "
                f"relaxation.pressure {pressures['relaxation']:g} GPa: crystals are confirmed "
                "under the pressure that they were found at; set both alike"
            )
        return self

    @model_validator(mode="after")
    def _can_be_computed(self) -> Campaign:
        asked = [p for p in self.properties if p in PROPERTIES]
        if asked and not isinstance(self.relaxation.engine, CalculatorEngine):
            raise ValueError(
                f"engine {self.relaxation.engine.name} does not compute {asked[0]}: choose another "
                "engine, or another property in networks.goals"
            )
        return self

    @model_validator(mode="after")
    def _can_vibrate(self) -> Campaign:
        engine = self.relaxation.engine
        if self.stability is None:
            return self
        if isinstance(engine, VaspEngine):
            if "relax" not in engine.kinds or any(isinstance(s, MakerStage) for s in engine.stages):
                raise ValueError(
                    "stability: phonons by vasp need a relaxation among engine.stages and none of "
                    "a maker: leave it out, or relax by a potential and confirm by vasp"
                )
        elif not isinstance(engine, CalculatorEngine):
            raise ValueError(
                f"stability: phonons need an engine that gives forces here, not {engine.name}: "
                "leave it out, or relax by a potential"
            )
        if self.relaxation.pressure:
            raise ValueError("stability: elastic constants are those at no pressure: leave it out")
        return self

    @property
    def elements(self) -> list[str]:
        return list(self.system)

    @property
    def relaxations(self) -> dict[str, RelaxationSettings]:
        """How structures are relaxed, by the name of the stage."""
        confirm = {} if self.confirm is None else {"confirmation": self.confirm.relaxation}
        return {"relaxation": self.relaxation, **confirm}

    @property
    def properties(self) -> list[str]:
        """Properties that the constraint learns: formation energy, and what the goals name."""
        return list(dict.fromkeys([FORMATION_ENERGY, *(g.property for g in self.networks.goals)]))

    @property
    def corrections(self) -> corrections.Corrections | None:
        """What corrects energies before they meet on the hull; None where nothing does."""
        chosen = self.relaxation.corrections
        mixed = self.relaxation.engine.mixes_scales and corrections.mixes_scales(self.system)
        corrected = chosen == "mp2020" or (chosen == "auto" and mixed)
        return corrections.mp2020() if corrected else None

    def completed(self) -> Campaign:
        """With what makers of the user's own write, which are imported for it.

        Raises
        ------
        UserError
            One is not trusted here, cannot be used, or writes other inputs than at first.
        """
        changed: dict[str, object] = {}
        relaxation = self.relaxation.completed(self.elements)
        if relaxation is not self.relaxation:
            changed["relaxation"] = relaxation
        if self.confirm is not None:
            confirming = self.confirm.relaxation.completed(self.elements)
            if confirming is not self.confirm.relaxation:
                changed["confirm"] = self.confirm.model_copy(update={"relaxation": confirming})
        return self.model_copy(update=changed) if changed else self

    def as_begun_before(self) -> list[Campaign]:
        """The campaign as earlier versions took it where it leaves choices to us, latest first.

        What began with those goes on with them: presets without `refine`, VASP with one run, and
        7net-0 alone in 0.1.
        """
        plain = self._with(_unrefined)
        latest = (plain or self)._with(_one_stage)
        first = (latest or plain or self)._with_first_engine()
        return [campaign for campaign in (plain, latest, first) if campaign is not None]

    def _with(
        self, change: Callable[[RelaxationSettings], RelaxationSettings | None]
    ) -> Campaign | None:
        """With relaxations that are changed; None where none is."""
        changed: dict[str, object] = {}
        if (relaxation := change(self.relaxation)) is not None:
            changed["relaxation"] = relaxation
        if self.confirm is not None and (confirming := change(self.confirm.relaxation)) is not None:
            changed["confirm"] = self.confirm.model_copy(update={"relaxation": confirming})
        return self.model_copy(update=changed) if changed else None

    def _with_first_engine(self) -> Campaign | None:
        """With 7net-0 alone where no engine is named; None where one is."""
        chosen = self.relaxation.model_fields_set if "relaxation" in self.model_fields_set else ()
        if "engine" in chosen:
            return None
        old = SevenNetEngine()
        update: dict[str, object] = {"engine": old}
        if "optimizer" not in chosen:
            update["optimizer"] = old.optimizer
        return self.model_copy(update={"relaxation": self.relaxation.model_copy(update=update)})

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the proposal sources; the last ones get what the first ones leave."""
        if self.loop.sources is not None:
            return tuple(dict.fromkeys(self.loop.sources))
        chosen = self.networks
        alone = chosen.are_the_papers or chosen.variant == "dcgan"
        own = () if alone else ("stackings", "substitution", "variation")
        # What knows no symmetry hardly ever meets one that is asked for.
        return (*(("random",) if self.search.groups else ()), *own, "generator")

    def searched(self) -> list[list[int]]:
        """Numbers of atoms of each element in the cells that are searched for; none for all."""
        most = self.loop.screening.max_sites
        return multiples(self.search.compositions, self.system, most, self.search.min_sites)

    @property
    def prerelaxes(self) -> bool:
        """Whether what is generated is relaxed by a learnt potential before it is chosen."""
        chosen, screening = self.networks, self.loop.screening
        judged = not chosen.are_the_papers and chosen.variant != "dcgan"
        return judged and screening.selection == "expected_gain" and screening.prerelax > 0

    def choice(self, *, rounds: bool) -> dict[str, object]:
        """What decides, beside the generator, which crystals are relaxed in a round.

        Parameters
        ----------
        rounds
            Whether their number is among it, as in earlier versions.
        """
        return self.model_dump(
            mode="json",
            include={"loop", "search", "thresholds"},
            exclude=None if rounds else {"loop": {"rounds"}},
            context=HASHED,
        )

    def entropy(self, stage: str, number: int) -> list[int]:
        """What the random numbers of a stage in a round begin with, and those of no other."""
        return [self.seed, number, zlib.crc32(stage.encode())]

    def seed_of(self, stage: str, number: int) -> int:
        """Seed of a stage in a round: that of another stage, round or campaign is another."""
        # Keras takes no more than 32 bits.
        return int(np.random.SeedSequence(self.entropy(stage, number)).generate_state(1)[0])

    def digest(self) -> str:
        """Hash of all that decides the result, with paths as the file has them.

        The numbers of workers do not, nor where the file lies, nor what is found out later.
        """
        later = {"engine": {"maker_inputs": True}}
        left_out: Any = {
            **dict.fromkeys(("trusted", "workers", "written"), True),
            "relaxation": later,
            "confirm": {"workers": True, "relaxation": later},
        }
        plain = self.model_dump(mode="json", exclude=left_out, context=HASHED)
        text = json.dumps(self._as_written(plain), sort_keys=True)
        return digest(text, 16)

    def changes(self, other: Campaign) -> dict[str, tuple[Any, Any]]:
        """Values here and in another campaign where they differ, by key."""
        here, there = (dict(_flat(c.model_dump(mode="json"))) for c in (self, other))
        return {
            key: (here.get(key), there.get(key))
            for key in {**here, **there}
            if here.get(key) != there.get(key)
            and self._as_written(here.get(key)) != other._as_written(there.get(key))
            and not key.startswith("written")
        }

    def differences(self, other: Campaign) -> dict[str, tuple[Any, Any]]:
        """Those of the changes that make the other another campaign; see `IDENTITY`."""
        free: set[str] = set()
        unknown: list[str] = []
        for campaign in (self, other):
            for stage, relaxation in campaign.relaxations.items():
                place = "confirm.relaxation" if stage == "confirmation" else stage
                free |= {f"{place}.engine.{key}" for key in relaxation.engine.technical}
                both = [c.relaxations.get(stage) for c in (self, other)]
                if _same_stages(*both):
                    free.add(f"{place}.engine.stages")
                if not all(getattr(r and r.engine, "maker_inputs", None) for r in both):
                    # A file says what is asked for, and not what that is.
                    unknown.append(f"{place}.engine.maker_inputs.")
        confirms = self.confirm is not None and other.confirm is not None
        return {
            key: values
            for key, values in self.changes(other).items()
            if key.startswith(IDENTITY)
            and (confirms or not key.startswith("confirm."))
            and not key.endswith(AMOUNTS)
            and key not in free
            and not key.startswith(tuple(unknown))
        }

    def _as_written(self, value: Any) -> Any:
        """A value with the paths in it as the file has them."""
        if isinstance(value, dict):
            return {k: self._as_written(v) for k, v in value.items()}
        if isinstance(value, list):
            return [self._as_written(v) for v in value]
        return self.written.get(value, value) if isinstance(value, str) else value


def _unrefined(relaxation: RelaxationSettings) -> RelaxationSettings | None:
    """Without versions of higher symmetry; None where they are not those of the presets."""
    return relaxation.model_copy(update={"refine": None}) if relaxation.refine == REFINE else None


def _one_stage(relaxation: RelaxationSettings) -> RelaxationSettings | None:
    engine = relaxation.engine
    if not isinstance(engine, VaspEngine) or "stages" in engine.model_fields_set:
        return None
    return relaxation.model_copy(
        update={"engine": engine.model_copy(update={"stages": ("relax",)})}
    )


def _same_stages(*relaxations: RelaxationSettings | None) -> bool:
    """Whether two engines are VASP with stages that differ in technical tags at most."""
    engines = [r.engine for r in relaxations if r is not None]
    stages = [e.decisive_stages for e in engines if isinstance(e, VaspEngine)]
    return len(stages) == 2 and stages[0] == stages[1]


def _flat(data: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Values by their keys, as ``loop.rounds``."""
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def load_campaign(path: Path | str) -> Campaign:
    """Read a campaign file; paths in it are relative to it, and whole from then on.

    Raises
    ------
    UserError
        The file cannot be read, is no YAML, or has keys or values that do not fit; an unknown key
        is named together with the nearest valid one.

    Examples
    --------
    >>> import ccdcgan
    >>> ccdcgan.load_campaign("campaign.yaml").elements  # doctest: +SKIP
    ['Bi', 'Se']
    """
    path = Path(path)
    return parse_campaign(read_yaml(path), str(path), path.absolute().parent)


def parse_campaign(data: Any, name: str, folder: Path | None = None) -> Campaign:
    """A campaign from plain data.

    Parameters
    ----------
    name
        Where they come from, for messages.
    folder
        What relative paths are relative to; by default they stay as they are.

    Raises
    ------
    UserError
        Keys or values do not fit.
    """
    written: dict[str, str] = {}
    campaign = validated(Campaign, data, name, {"folder": folder, "written": written})
    if not written:
        return campaign
    return campaign.model_copy(update={"written": {**campaign.written, **written}})

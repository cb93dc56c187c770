"""All relaxations of one level of theory, of many campaigns, on one hull: ``ccdcgan hull``."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from maggma.core import Store
from pydantic import BaseModel, Field
from pymatgen.core import Element

from ccdcgan.dft.engines import corrections
from ccdcgan.dft.engines.base import LevelOfTheory
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.structures.decoding import StoredStructure
from ccdcgan.dft.structures.references import ReferenceFiles, joining
from ccdcgan.launchers.workdir import campaign_of, can_open, embedded_store
from ccdcgan.workflows.campaign import parse_campaign
from ccdcgan.workflows.documents import Claim, Label, Origin, RelaxationDocument
from ccdcgan.workflows.knowledge import Knowledge
from ccdcgan.workflows.storage.stores import PHASES, RESULTS
from ccdcgan.workflows.trust import hull_members

if TYPE_CHECKING:
    from ccdcgan.launchers.cluster.settings import Cluster

#: Hex digits of a campaign's digest that stand for one without a name.
DIGITS = 8


class JointPhase(BaseModel):
    """A crystal on a hull of many campaigns: the lowest of its relaxations."""

    id: str = Field(description="Content key of its relaxation.")
    formula: str
    spacegroup: str = Field(description="Within 0.1 Å, as R-3m (166).")
    energy_per_atom: float = Field(description="eV/atom, the level's corrections included.")
    formation_energy_per_atom: float = Field(description="eV/atom, against the elements.")
    e_above_hull: float = Field(description="Distance to the hull, eV/atom.")
    label: Label
    campaigns: list[str] = Field(description="All that have relaxed this crystal.")
    relaxations: int = Field(description="How many of them are of this crystal.")
    origin: Origin
    structure: StoredStructure = Field(description="Relaxed pymatgen structure.")


class ReferenceEnergies(BaseModel):
    """Energies of files on a hull of campaigns."""

    name: str = Field(description="Of the files.")
    joined: int
    materials_project: bool = Field(
        False, description="Whether raw energies of the Materials Project are among them."
    )
    refused: str | None = Field(None, description="Which do not join the hull, and why.")


class JointHull(BaseModel):
    """The phases of a system, of many campaigns, nearest to the hull first."""

    system: list[str]
    level_of_theory: LevelOfTheory
    campaigns: list[str]
    references: ReferenceEnergies | None = None
    relaxations: int = Field(description="With an energy, of the system and of parts of it.")
    untrusted: dict[str, str] = Field(description="Content keys of what is set aside, and why.")
    not_converged: int = Field(description="Relaxations that ran out of steps.")
    phases: list[JointPhase]


class Shelf(NamedTuple):
    """Where relaxations lie.

    Attributes
    ----------
    relaxations, phases
        Stores of the relaxations and of the phases.
    names
        What campaigns are called, by digest.
    alone
        Name of the only campaign; None where there may be many.
    """

    relaxations: Store
    phases: Store
    names: Mapping[str, str] = {}
    alone: str | None = None


def shelves_in(folders: Sequence[Path]) -> list[Shelf]:
    """The stores of campaigns' folders; nothing is locked, and a campaign may be running.

    Raises
    ------
    UserError
        A folder holds no campaign, or no relaxations.
    """
    chosen = list(dict.fromkeys(folder.resolve() for folder in folders))
    names = Counter(folder.name for folder in chosen)
    found = []
    for folder in chosen:
        campaign_of(folder)
        if not can_open(folder):
            raise UserError(
                f"{folder} holds no relaxations: give the folder of a ccdcgan run, or --config for "
                "what a cluster has relaxed"
            )
        store: Any = embedded_store(folder, read_only=True)
        alone = folder.name if names[folder.name] == 1 else str(folder)
        stores = store.additional_stores
        found.append(Shelf(stores[RESULTS], stores[PHASES], alone=alone))
    return found


def shelf_of(settings: Cluster) -> Shelf:
    """The stores of a cluster.

    Raises
    ------
    UserError
        The database cannot be reached; one line, in which no password is.
    """
    settings.ping()
    submitted = settings.launchpad.handle()["campaigns"].find({}, {"digest": 1, "name": 1})
    names = {str(c.get("digest") or c["_id"]): str(c.get("name") or c["_id"]) for c in submitted}
    return Shelf(settings.store_of(RESULTS), settings.store_of(PHASES), names)


class Collected:
    """The relaxations with an energy of a system and of parts of it.

    Parameters
    ----------
    shelves
        Where they lie; one that lies in several places counts once.
    elements
        The system.
    """

    def __init__(self, shelves: Iterable[Shelf], elements: Sequence[str]) -> None:
        self.elements = list(elements)
        self.documents: dict[str, RelaxationDocument] = {}
        self._owners: defaultdict[str, set[str]] = defaultdict(set)
        others = [e.symbol for e in Element if e.symbol not in elements]
        wanted = {
            "energy_per_atom": {"$ne": None},
            "structure.sites.species.element": {"$nin": others},
        }
        fields = sorted(set(RelaxationDocument.model_fields) - {"frames"})
        for shelf in shelves:
            shelf.relaxations.connect()
            found = {
                d.key: d
                for d in map(
                    RelaxationDocument.model_validate, shelf.relaxations.query(wanted, fields)
                )
                # One whose energy is no number has none.
                if d.energy_per_atom is not None
            }
            self.documents = {**found, **self.documents}
            self._note_owners(shelf, found)

    def _note_owners(self, shelf: Shelf, found: Mapping[str, RelaxationDocument]) -> None:
        """Note which campaigns have relaxations: who asked first, and whose phases they are."""
        if shelf.alone is not None:
            for key in found:
                self._owners[key].add(shelf.alone)
            return
        shelf.phases.connect()
        published = shelf.phases.query({"id": {"$in": sorted(found)}}, ["id", "campaign"])
        digests = [(p["id"], str(p["campaign"])) for p in published]
        for key, digest in [*((key, d.campaign) for key, d in found.items()), *digests]:
            self._owners[key].add(shelf.names.get(digest, digest[:DIGITS]))

    def levels(self) -> Counter[str]:
        """How many there are of each level of theory, by its name."""
        return Counter(str(d.level_of_theory) for d in self.documents.values())

    def at_level(self, asked: str | None = None) -> list[RelaxationDocument]:
        """Those of one level of theory, the lowest first.

        Parameters
        ----------
        asked
            The level's name, or a part that no other has; may be left out where there is one.

        Raises
        ------
        UserError
            There are no relaxations, or it is not one level.
        """
        levels, system = self.levels(), "-".join(self.elements)
        if not levels:
            raise UserError(f"there are no relaxations of {system} with an energy here")
        like = [n for n in levels if asked is None or asked.casefold() in n.casefold()]
        if asked is not None and asked in levels:
            like = [asked]
        if len(like) != 1:
            there = "; ".join(f"{n} of {name}" for name, n in levels.most_common())
            problem = "" if asked is None else f"--level {asked!r} names {len(like) or 'none'}: "
            raise UserError(
                f"{problem}the relaxations of {system} are {there}: choose one level with --level, "
                "by its name or a part that no other has"
            )
        found = [d for d in self.documents.values() if str(d.level_of_theory) == like[0]]
        return sorted(found, key=_by_energy)

    def with_references(
        self, documents: Sequence[RelaxationDocument], files: ReferenceFiles
    ) -> tuple[list[RelaxationDocument], ReferenceEnergies]:
        """Relaxations and the references of their level as further ones, lowest first.

        Raises
        ------
        UserError
            No reference is of their level.
        """
        level = documents[0].level_of_theory
        crystals, refused = joining(files.crystals, level, self.elements)
        if not crystals:
            problem = refused or f"it has no energies of {'-'.join(self.elements)}"
            raise UserError(f"nothing of {files.name} can join the hull: {problem}")
        added = [
            RelaxationDocument(
                key=f"reference:{crystal.id}",
                level_of_theory=crystal.level or level,
                structure=crystal.structure,
                energy_per_atom=crystal.energy_per_atom,
                converged=True,
                campaign=files.name,
                origin=Origin(kind="reference", id=crystal.id),
                initial_structure=crystal.structure,
            )
            for crystal in crystals
        ]
        for document in added:
            self._owners[document.key].add(files.name)
        raw = corrections.is_materials_project(level)
        about = ReferenceEnergies(
            name=files.name,
            joined=len(added),
            materials_project=raw and any(c.parameters is not None for c in crystals),
            refused=refused,
        )
        return sorted([*documents, *added], key=_by_energy), about

    def owners(self, keys: Iterable[str]) -> list[str]:
        """Names of the campaigns that have any of these relaxations."""
        return sorted(set().union(*(self._owners[key] for key in keys)))


def _by_energy(document: RelaxationDocument) -> tuple[float, str]:
    return document.energy_per_atom or 0.0, document.key


def joint_hull(
    collected: Collected, level: str | None = None, files: ReferenceFiles | None = None
) -> JointHull:
    """The phases of all relaxations of one level, each crystal once.

    Which relaxations are one crystal, which cannot be believed and what makes the hull is decided
    as in a campaign. Energies that mix GGA and GGA+U are corrected by MP2020 where the system has
    both, and all of them where entries of the Materials Project are among them.

    Parameters
    ----------
    level
        See `Collected.at_level`.
    files
        Crystals of files; those with energies of the level join the hull.

    Raises
    ------
    UserError
        It is not one level, an element has no relaxation, or nothing of the files is of the level.
    """
    documents, about = collected.at_level(level), None
    relaxations, campaigns = len(documents), collected.owners(d.key for d in documents)
    system, one = collected.elements, documents[0].level_of_theory
    corrected = corrections.is_mixed(one) and corrections.mixes_scales(system)
    if files is not None:
        documents, about = collected.with_references(documents, files)
        corrected |= about.materials_project
    # A campaign of its own, which has relaxed all of them.
    settings = {"corrections": "mp2020" if corrected else "none"}
    campaign = parse_campaign({"system": "-".join(system), "relaxation": settings}, "hull")
    knowledge = Knowledge(
        campaign,
        {d.key: d for d in documents},
        [Claim(key=d.key, origin=d.origin) for d in documents],
    )
    members: defaultdict[str, list[str]] = defaultdict(list)
    for key, fact in knowledge.facts.items():
        members[fact.crystal or key].append(key)
    # End members that ran out of steps are part of the hull, too.
    ends = {d.key for d in hull_members(documents, knowledge.untrusted) if not d.converged}
    phases = []
    for phase in knowledge.phases:
        if phase.label == "untrusted" or not (phase.distinct or phase.id in ends):
            continue
        same = members[knowledge.facts[phase.id].crystal or phase.id]
        plain = phase.model_dump(include=set(JointPhase.model_fields) - {"structure"})
        more = {"campaigns": collected.owners(same), "relaxations": len(same)}
        phases.append(JointPhase(**plain, **more, structure=phase.structure))
    phases.sort(key=lambda p: (p.e_above_hull, p.formula, p.id))
    return JointHull(
        system=system,
        level_of_theory=knowledge.hull.level,
        campaigns=campaigns,
        references=about,
        relaxations=relaxations,
        untrusted=knowledge.untrusted,
        not_converged=sum(not d.converged for d in documents),
        phases=phases,
    )

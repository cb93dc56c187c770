"""Relaxations in a compressed file under their content keys, for the benchmarks that share them."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.core import Structure

from ccdcgan.dft.engines.frames import Frame
from ccdcgan.dft.relaxation.processes import relax_many
from ccdcgan.dft.relaxation.settings import RelaxationSettings
from ccdcgan.dft.structures.sources import Prototype
from ccdcgan.workflows.documents import Candidate, Claim, Origin, RelaxationDocument
from ccdcgan.workflows.propose import key_of

#: What is kept of a relaxation beside its structures.
NUMBERS = ("energy_per_atom", "converged", "reason", "steps", "seconds", "max_force", "max_stress")


def packed(structure: Structure) -> dict[str, Any]:
    """A structure in few characters."""
    return {
        "lattice": np.round(structure.lattice.matrix, 5).tolist(),
        "species": [site.specie.symbol for site in structure],
        "coords": np.round(structure.frac_coords, 5).tolist(),
    }


def unpacked(plain: dict[str, Any]) -> Structure:
    """The structure of `packed`."""
    return Structure(plain["lattice"], plain["species"], plain["coords"])


class Archive:
    """Relaxations under their content keys, in a compressed file that only grows.

    Parameters
    ----------
    path
        The file.
    relaxation, elements
        How all are relaxed, and their system.
    """

    def __init__(self, path: Path, relaxation: RelaxationSettings, elements: Sequence[str]) -> None:
        self.path, self.relaxation = path, relaxation
        self.level = relaxation.engine.level_of_theory(list(elements))
        self.documents: dict[str, RelaxationDocument] = {}
        if path.exists():
            with gzip.open(path, "rt", encoding="utf-8") as lines:
                for line in lines:
                    document = self._document(json.loads(line))
                    self.documents[document.key] = document

    def lacks(self, key: str, frames: bool) -> bool:
        """Whether a relaxation is not there, or only without the frames that are wanted of it."""
        there = self.documents.get(key)
        return there is None or (frames and there.converged and not there.frames)

    def add(self, documents: Sequence[RelaxationDocument], frames: bool) -> None:
        """Keep what is not there yet; frames, from which a potential is learnt, if asked for."""
        if not frames:
            documents = [d.model_copy(update={"frames": []}) for d in documents]
        new = [d for d in documents if self.lacks(d.key, bool(d.frames))]
        if new:
            # A member of its own at the end of the file: a broken run loses nothing.
            lines = "".join(json.dumps(self._row(d)) + "\n" for d in new)
            with self.path.open("ab") as file:
                file.write(gzip.compress(lines.encode(), mtime=0))
        self.documents.update({d.key: d for d in new})

    @staticmethod
    def _row(document: RelaxationDocument) -> dict[str, Any]:
        frames = [
            {k: np.round(v, 4).tolist() for k, v in f.model_dump().items()} for f in document.frames
        ]
        return {
            "frames": frames,
            "key": document.key,
            "origin": document.origin.model_dump(exclude_none=True),
            "initial": packed(document.initial_structure),
            "final": packed(document.structure),
            **document.model_dump(include=set(NUMBERS)),
        }

    def _document(self, row: dict[str, Any]) -> RelaxationDocument:
        return RelaxationDocument(
            key=row["key"],
            origin=Origin.model_validate(row["origin"]),
            initial_structure=unpacked(row["initial"]),
            structure=unpacked(row["final"]),
            level_of_theory=self.level,
            campaign="yield",
            frames=[Frame.model_validate(f) for f in row.get("frames", ())],
            **{name: row[name] for name in NUMBERS},
        )

    def relax(
        self, wanted: Sequence[Candidate], workers: int | None, frames: bool = False
    ) -> list[Claim]:
        """Relax what is not there yet; the entries of all, each content key once.

        Frames, from which a campaign learns a potential, are kept if they are asked for.
        """
        entries: dict[str, Candidate] = {}
        for candidate in wanted:
            entries.setdefault(key_of(candidate, self.relaxation), candidate)
        todo = [key for key in entries if self.lacks(key, frames)]
        structures = [entries[key].structure for key in todo]
        done: list[RelaxationDocument] = []
        for number, result in relax_many(structures, self.relaxation, workers):
            done.append(RelaxationDocument.of(result, entries[todo[number]], "yield"))
            if len(done) == 25:
                self.add(done, frames)
                print(f"{len(self.documents)} relaxations", file=sys.stderr, flush=True)
                done = []
        self.add(done, frames)
        return [Claim(key=key, origin=c.origin) for key, c in entries.items()]


def proposed(kind: str, prototypes: Sequence[Prototype]) -> list[Candidate]:
    """Candidates for relaxation."""
    return [
        Candidate(
            origin=Origin.model_validate({"kind": kind, "id": p.id}),
            # As the archive keeps it, so that the content keys are the same.
            structure=unpacked(packed(p.structure)),
        )
        for p in prototypes
    ]

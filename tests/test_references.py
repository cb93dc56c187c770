"""References: known crystals that are on the hull and not new; campaigns begun before."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from crystals import ANTIFLUORITE, BISMUTH, ROCKSALT, fcc
from pymatgen.core import Structure

from ccdcgan.dft.engines.potentials import SevenNetEngine
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.relaxation.settings import DEFAULT_ENGINE
from ccdcgan.dft.structures.matching import is_same
from ccdcgan.dft.structures.references import load_references
from ccdcgan.launchers.workdir import open_workdir
from ccdcgan.workflows.campaign import Campaign, load_campaign, parse_campaign
from ccdcgan.workflows.documents import Claim, Origin, RelaxationDocument
from ccdcgan.workflows.knowledge import Knowledge
from ccdcgan.workflows.propose import ProposeMaker


def campaign_with(folder: Path, *structures: Structure) -> Campaign:
    """A campaign file beside its references, as a user writes it."""
    (folder / "known").mkdir(parents=True)
    for number, structure in enumerate(structures):
        structure.to(str(folder / "known" / f"{number}.cif"))
    path = folder / "campaign.yaml"
    path.write_text("system: Bi-Se\nreferences: [{source: files, path: known}]\n")
    return load_campaign(path)


def test_references_lie_beside_the_campaign_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign = campaign_with(tmp_path / "here", ROCKSALT, BISMUTH, ROCKSALT)
    monkeypatch.chdir(tmp_path)
    found, skipped = load_references(campaign.references, campaign.elements)
    assert not skipped
    # Each crystal once, in its primitive cell.
    assert [(p.structure.composition.reduced_formula, len(p.structure)) for p in found] == [
        ("BiSe", 2),
        ("Bi", 2),
    ]
    assert found[0].id == "reference:file:0.cif"


def test_a_reference_of_another_system_is_one_line(tmp_path: Path) -> None:
    campaign = campaign_with(tmp_path / "here", fcc(["Ni", "Se"], [0, 0.5]))
    with pytest.raises(UserError, match=r"0\.cif \(NiSe\) holds Ni, which is not of the system"):
        load_references(campaign.references, campaign.elements)


def test_references_of_the_materials_project(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that answers as the real one does; the server itself is far away."""
    asked: list[dict[str, object]] = []

    class Client:
        def __init__(self, key: str) -> None:
            assert key == "a-key"
            self.materials = SimpleNamespace(summary=self)

        def __enter__(self) -> Client:
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def search(self, **query: object) -> list[SimpleNamespace]:
            asked.append(query)
            return [SimpleNamespace(material_id="mp-1", structure=ANTIFLUORITE)]

    monkeypatch.setitem(sys.modules, "mp_api.client", SimpleNamespace(MPRester=Client))
    monkeypatch.setenv("MP_API_KEY", "a-key")
    campaign = parse_campaign({"references": [{"source": "materials_project"}]}, "file")
    found, _ = load_references(campaign.references, campaign.elements)
    assert [p.id for p in found] == ["reference:mp:mp-1"]
    assert asked[0]["chemsys"] == ["Bi", "Se", "Bi-Se"]
    monkeypatch.delenv("MP_API_KEY")
    with pytest.raises(UserError, match="MP_API_KEY"):
        load_references(campaign.references, campaign.elements)


def test_a_folder_goes_on_with_the_engine_that_it_began_with(tmp_path: Path) -> None:
    """A file that leaves the engine to us meant 7net-0 before, and means another now."""
    old = parse_campaign({"relaxation": {"engine": {"name": "sevennet"}, "fmax": 0.1}}, "file")
    with open_workdir(tmp_path / "run", old):
        pass
    now = parse_campaign({"relaxation": {"fmax": 0.1}}, "file")
    assert now.relaxation.engine == DEFAULT_ENGINE
    assert now.relaxation.optimizer == "BFGS"
    with open_workdir(tmp_path / "run", now) as goes_on:
        assert goes_on.relaxation.engine == SevenNetEngine()
        assert goes_on.relaxation.optimizer == "FIRE"
        assert goes_on.digest() == old.digest()
    with open_workdir(tmp_path / "new", now) as begins:
        assert begins == now
    # Who names the new engine gets it, or is told.
    named = parse_campaign(now.model_dump(mode="json"), "file")
    refused = pytest.raises(UserError, match="another campaign")
    with refused, open_workdir(tmp_path / "run", named):
        pass


def test_references_and_own_structures_are_proposed_first(
    tmp_path: Path, empty_store: None
) -> None:
    campaign = campaign_with(tmp_path / "here", ROCKSALT)
    plain = campaign.model_dump(mode="json")
    plain["database"] |= {"filters": {"max_sites": 4}, "element_sites": 3}
    made = ProposeMaker.make.original(ProposeMaker(), plain)
    kinds = [c["origin"]["kind"] for c in made["candidates"]]
    assert kinds[0] == "reference"
    assert list(dict.fromkeys(kinds)) == ["reference", "element", "prototype"]
    reference = Structure.from_dict(made["candidates"][0]["structure"])
    assert reference.composition.reduced_formula == "BiSe"
    assert is_same(reference, ROCKSALT)


def test_what_matches_a_reference_is_not_new() -> None:
    level = SevenNetEngine().level_of_theory()
    entries, documents = [], {}
    found = [
        ("reference", ROCKSALT, -3.8),
        ("element", BISMUTH, -3.9),
        ("element", fcc(["Se"], [0.0], 4.5), -3.4),
        ("generated", ROCKSALT, -3.8),
        ("generated", ANTIFLUORITE, -3.8),
    ]
    for number, (kind, structure, energy) in enumerate(found):
        origin = Origin.model_validate({"kind": kind, "id": str(number)})
        entries.append(Claim(key=str(number), origin=origin))
        documents[str(number)] = RelaxationDocument(
            key=str(number),
            structure=structure.as_dict(),
            energy_per_atom=energy,
            converged=True,
            campaign="x",
            origin=origin,
            initial_structure=structure.as_dict(),
            level_of_theory=level,
        )
    phases = Knowledge(Campaign(), documents, entries).phases
    assert [p.distinct for p in phases] == [True, True, True, False, True]
    assert phases[0].e_above_hull == 0.0

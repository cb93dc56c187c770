"""INCAR tags: which decide an energy, which do not, and those of the paper."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from pymatgen.core import Element

from ccdcgan.dft.engines.vasp.doubts import refuse_values

T = TypeVar("T")

#: The paper's settings (Methods), and files that nobody needs left unwritten. What is not here is
#: atomate2's choice for relaxations, which shall not decide on an energy: U for oxides of some
#: metals but not for their end members.
INCAR: dict[str, Any] = {
    "GGA": "PE",
    "ENCUT": 500.0,
    "PREC": "Accurate",
    "ISPIN": 2,
    "LASPH": True,
    "LDAU": False,
    "LAECHG": False,
    "LVTOT": False,
    "LMIXTAU": None,
    # Where a run stops, the next one goes on from its density and wavefunctions.
    "LCHARG": True,
    "LWAVE": True,
}

#: Tags that decide an energy, with VASP's defaults. Smearing, algorithms and symmetry are not
#: among them: custodian must be free to change those.
DECISIVE: dict[str, Any] = {
    "GGA": None,
    "METAGGA": None,
    "ENCUT": None,
    "PREC": "Normal",
    "ISPIN": 1,
    "LASPH": False,
    "ADDGRID": False,
    "LDAU": False,
    "LDAUTYPE": 2,
    "LDAUL": None,
    "LDAUU": None,
    "LDAUJ": None,
    "IVDW": 0,
    "LUSE_VDW": False,
    "LHFCALC": False,
    "AEXX": None,
    "HFSCREEN": None,
    "LSORBIT": False,
}

#: Tags of the user's own that leave the energy of a converged run as it is.
TECHNICAL = {"ALGO", "AMIN", "AMIX", "AMIX_MAG", "BMIX", "BMIX_MAG", "IBRION", "IMIX", "KPAR"}
TECHNICAL |= {"LAECHG", "LCHARG", "LELF", "LORBIT", "LPLANE", "LVTOT", "LWAVE", "MAXMIX", "NCORE"}
TECHNICAL |= {"NELM", "NELMDL", "NELMIN", "NPAR", "NSIM", "POTIM", "SYSTEM", "TIME"}

#: Those, and what only a run that failed is tried again with.
HARMLESS = TECHNICAL | {"ISYM", "SYMPREC"}

#: Tags that leave an energy as it is within limits, which are in `limits`.
LIMITED = {"ALGO", "EDIFF", "IALGO", "ICHARG", "ISMEAR", "LREAL", "NBANDS", "SIGMA"}
LIMITED |= {"NGX", "NGXF", "NGY", "NGYF", "NGZ", "NGZF"}

#: Beside `HARMLESS`, tags that say how a run begins and goes on, and what it writes. Any other that
#: differs from what the engine asks, and is not `LIMITED`, makes another level of theory.
NEUTRAL = (HARMLESS - LIMITED) | {"EDIFFG", "EMAX", "EMIN", "ISIF", "ISTART", "KBLOCK", "KGAMMA"}
NEUTRAL |= {"KSPACING", "LASYNC", "LDAUPRINT", "LMAXMIX", "LMIXTAU", "LSCALAPACK", "LSCALU"}
NEUTRAL |= {"LVHAR", "MAGMOM", "NCSHMEM", "NEDOS", "NFREE", "NSW", "NWRITE", "RWIGS"}

#: What a run that failed, custodian's corrections and all, is tried again with: first as asked,
#: then slower and steadier. None of it changes the energy of a converged run.
LADDER: tuple[dict[str, Any], ...] = (
    {},
    {"ALGO": "Normal", "POTIM": 0.3, "NELM": 300},
    {"ALGO": "All", "POTIM": 0.1, "NELM": 300, "ISYM": 0, "NELMIN": 6, "AMIX": 0.1, "BMIX": 0.01},
    {"ALGO": "All", "NELM": 300, "ISYM": 0, "SYMPREC": 1e-8, "IBRION": 1, "POTIM": 0.3},
)

#: Tags that the settings of a campaign decide, and which.
FOLLOWS = {
    "EDIFFG": "relaxation.fmax",
    "NSW": "relaxation.max_steps",
    "PSTRESS": "relaxation.pressure",
    "KSPACING": "engine.kpoints_length",
    "KGAMMA": "engine.kpoints_length",
}

#: Tags of U by element.
HUBBARD = ("LDAUU", "LDAUJ", "LDAUL")

#: ENCUT of the Materials Project's relaxations, eV.
MP_CUTOFF = 520.0

#: Tags of spin-orbit coupling, as VASP's manual recommends them: moments along z of the cell, no
#: symmetry, which they may break, and gradients without the grid's directions.
SPIN_ORBIT: dict[str, Any] = {
    "LSORBIT": True,
    "LNONCOLLINEAR": True,
    "SAXIS": [0, 0, 1],
    "ISYM": -1,
    "GGA_COMPAT": False,
}

#: Tags of which any has spins point anywhere.
NONCOLLINEAR = ("LSORBIT", "LNONCOLLINEAR")

#: Parameters of D3(BJ) for r2SCAN (Ehlert et al., J. Chem. Phys. 154, 061101 (2021)).
R2SCAN_D3BJ = {"VDW_S8": 0.78981345, "VDW_A1": 0.49484001, "VDW_A2": 5.73083694}


def decisive(incar: Mapping[str, Any]) -> dict[str, Any]:
    """The decisive tags of an INCAR, written alike whoever wrote them."""
    return {tag: plain(incar.get(tag, default)) for tag, default in DECISIVE.items()}


def plain(value: Any) -> Any:
    """A value of a tag, written alike whoever wrote it; None for an empty one."""
    if isinstance(value, str):
        return value.strip().upper() or None
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return float(value) if isinstance(value, (int, float)) else value


def one_each(what: str, values: Iterable[tuple[str, T]]) -> dict[str, T]:
    """Values by element, of an order in which one may stand several times.

    Raises
    ------
    ValueError
        It differs from one time to the next.
    """
    found: dict[str, T] = {}
    for element, value in values:
        if found.setdefault(element, value) != value:
            raise ValueError(f"{what} of {element} differs between its sites")
    return found


def alike(tag: str, asked: Any, ran: Any) -> bool:
    """Whether two values of a tag are the same as VASP writes them.

    vasprun.xml cuts PREC, as in accura, of which VASP reads the first letter, and numbers, as in
    AEXX = 0.33333333. Words of other tags may begin alike: SCAN and SCANL.
    """
    if tag == "PREC" and isinstance(asked, str) and isinstance(ran, str):
        return asked.startswith(ran) or ran.startswith(asked)
    if isinstance(asked, float) and isinstance(ran, float):
        return math.isclose(asked, ran, rel_tol=1e-7, abs_tol=5e-9)
    if isinstance(asked, list) and isinstance(ran, list):
        return len(asked) == len(ran) and all(map(partial(alike, tag), asked, ran))
    return bool(asked == ran)


def is_noncollinear(incar: Mapping[str, Any]) -> bool:
    """Whether an INCAR needs vasp_ncl."""
    return any(incar.get(tag) for tag in NONCOLLINEAR)


def difference(tag: str, values: Sequence[Any]) -> str:
    """A changed tag for people."""
    return f"{tag} {values[1]} instead of {values[0]}"


def check_tags(incar: Mapping[str, Any]) -> None:
    """Refuse what is nearly a tag of VASP, which would ignore it."""
    if not incar:
        return
    from pymatgen.io.vasp.inputs import Incar

    # Those of machine-learnt force fields change from one version to the next.
    unknown = {tag for tag in incar if not tag.startswith("ML_")} - set(Incar.INCAR_PARAMS)
    for tag in sorted(unknown):
        close = difflib.get_close_matches(tag, Incar.INCAR_PARAMS, n=1, cutoff=0.75)
        if close:
            raise ValueError(f"{tag} is no tag of VASP; did you mean {close[0]}?")


def one_number_each(values: dict[Any, Any]) -> bool:
    """Whether values are finite numbers by element."""
    return all(
        isinstance(v, (int, float)) and math.isfinite(v) and Element.is_valid_symbol(str(e))
        for e, v in values.items()
    )


def check_incar(incar: Mapping[str, Any]) -> None:
    """Refuse tags that cannot work, or that the settings of a campaign decide.

    Raises
    ------
    ValueError
        The text says what to do in place of it.
    """
    for tag, instead in FOLLOWS.items():
        if tag in incar:
            raise ValueError(f"{tag} follows from {instead}: set that instead")
    if incar.get("ISIF", 3) != 3:
        raise ValueError("ISIF: a relaxation relaxes cell and positions, by ISIF = 3: leave it out")
    if incar.get("IBRION", 2) not in (1, 2, 3):
        raise ValueError("IBRION: only 1, 2 and 3 relax a crystal")
    check_tags(incar)
    refuse_values(incar)
    for tag in HUBBARD:
        values = incar.get(tag)
        if values is not None and not (isinstance(values, dict) and one_number_each(values)):
            raise ValueError(
                f"{tag}: give one number for each element, as in {tag}: {{Fe: 4.0}}, which "
                "holds in all structures; another for each anion would be two levels of theory"
            )
    if incar.get("LDAU") and not incar.get("LDAUU"):
        raise ValueError(
            "LDAU alone puts oxides with U and metals without on one hull: add LDAUU: {Fe: "
            "4.0}, for all structures, or set engine.hubbard_u: mp2020 in its place"
        )

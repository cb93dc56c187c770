"""Placeholder POTCARs of our own text, for the stand-in of VASP."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pymatgen.core import Element

TEMPLATE = """\
  PAW_PBE {symbol} 01Jan2026 stand-in
   {valence:.14f}
 parameters from PSCTR are:
   SHA256 =  none
   COPYR  =  this is a stand-in written for the tests of ccdcgan: none of it is VASP's data
   VRHFIN ={element}: stand-in
   LEXCH  = PE
   EATOM  =   100.0000 eV,    7.3500 Ry

   TITEL  = PAW_PBE {symbol} 01Jan2026 stand-in
   LULTRA =        F    use ultrasoft PP ?
   IUNSCR =        0    unscreen: 0-lin 1-nonlin 2-no
   RPACOR =     .000    partial core radius
   POMASS = {mass:8.3f}; ZVAL   = {valence:6.3f}    mass and valenz
   RCORE  =    2.000    outmost cutoff radius
   RWIGS  =    2.000; RWIGS  =    1.058    wigner-seitz radius (au A)
   ENMAX  =  200.000; ENMIN  =  150.000 eV
   LCOR   =        T    correct aug charges
   LPAW   =        T    paw PP
   EAUG   =  300.000

END of PSCTR-controll parameters
 local part
  0.10000000E+01  0.20000000E+01
 End of Dataset
"""


def write_potcars(folder: Path, symbols: Iterable[str], functional: str = "PBE") -> Path:
    """Write placeholders where pymatgen looks for POTCARs.

    Parameters
    ----------
    folder
        What to set `PMG_VASP_PSP_DIR` to: in the environment before pymatgen is imported, or in
        `pymatgen.core.SETTINGS`.
    symbols
        Names of POTCARs, e.g. Bi, Se, Bi_d.
    functional
        As pymatgen calls it: PBE, PBE_54, …

    Returns
    -------
    The folder.
    """
    from pymatgen.io.vasp.inputs import POTCAR_FUNCTIONAL_MAP

    place = folder / POTCAR_FUNCTIONAL_MAP[functional]
    place.mkdir(parents=True, exist_ok=True)
    for symbol in symbols:
        element = Element(symbol.split("_")[0])
        group = element.group
        text = TEMPLATE.format(
            symbol=symbol,
            element=element.symbol,
            mass=float(element.atomic_mass),
            valence=float(group if group <= 12 else group - 10),
        )
        (place / f"POTCAR.{symbol}").write_text(text)
    return folder

"""The POTCARs of a machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ccdcgan.dft.errors import UserError


def require_potcars(symbols: Mapping[str, str], functional: str) -> None:
    """Raise a `UserError` that says what to set, where a POTCAR is not found.

    Parameters
    ----------
    symbols
        Name of the POTCAR of each element.
    functional
        Their set, as pymatgen names it.
    """
    from pymatgen.io.vasp import PotcarSingle

    folder = os.environ.get("PMG_VASP_PSP_DIR")
    if not folder:
        from pymatgen.core import SETTINGS

        folder = SETTINGS.get("PMG_VASP_PSP_DIR")
    if not folder:
        raise UserError(
            "no POTCARs: set PMG_VASP_PSP_DIR to the folder that 'pmg config -p' has made"
        )
    if not Path(folder).is_dir():
        raise UserError(f"PMG_VASP_PSP_DIR is {folder}, which is no folder")
    for element, symbol in symbols.items():
        try:
            PotcarSingle.from_symbol_and_functional(symbol, functional)
        except Exception:  # noqa: BLE001  pymatgen raises several kinds
            raise UserError(
                f"no {functional} POTCAR {symbol!r} for {element} in {folder}: add it, or "
                f"name another with engine.potcars: {{{element}: ...}}"
            ) from None

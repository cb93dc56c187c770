"""INCAR tags of a campaign: what cannot work is refused, what surprises is said, before a run."""

import pytest

from ccdcgan.dft.engines.vasp.doubts import doubts
from ccdcgan.dft.errors import UserError
from ccdcgan.workflows.campaign import parse_campaign


def campaign(incar):
    return parse_campaign({"relaxation": {"engine": {"name": "vasp", "incar": incar}}}, "x")


@pytest.mark.parametrize(
    ("incar", "words"),
    [
        ({"ISIF": 2}, "by ISIF = 3"),
        ({"ENCTU": 500}, "did you mean ENCUT"),
        ({"KSPACING": 0.2}, "engine.kpoints_length"),
        ({"NSW": 5}, "relaxation.max_steps"),
        ({"IBRION": 0}, "only 1, 2 and 3"),
        ({"MAGMOM": [5.0, 5.0]}, "one number for each element"),
        ({"ALGO": "Wild"}, "ALGO: VASP knows no 'Wild'"),
        ({"PREC": "Great"}, "PREC: VASP knows no"),
        ({"ISPIN": 3}, "ISPIN: 1 is without"),
        ({"ENCUT": -5}, "ENCUT: -5 is no number above 0"),
        ({"ENCUT": "high"}, "no number above 0"),
        ({"KPAR": 0}, "KPAR: 0 is no number"),
        ({"POTIM": True}, "POTIM: True is no number"),
        ({"NELECT": 40}, "cells of different size"),
        ({"ICHARG": 11}, "the density is kept"),
        ({"LDAU": True}, "LDAU alone"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(incar, words):
    with pytest.raises(UserError) as refused:
        campaign(incar)
    assert words in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("incar", "words"),
    [
        ({"METAGGA": "SCAN", "GGA": "PS"}, "METAGGA replaces GGA"),
        ({"LHFCALC": True, "ALGO": "Fast"}, "All, Damped or Normal"),
        ({"LHFCALC": True}, "All, Damped or Normal"),
        ({"LUSE_VDW": True}, "counts correlation twice"),
        ({"MAGMOM": {"Fe": 5}, "ISPIN": 1}, "ignored"),
        ({"ISMEAR": -5}, "gives metals wrong forces"),
        ({"LREAL": "Auto"}, "LREAL"),
        ({"NELM": 5}, "too few"),
        ({"EDIFF": 1e-2}, "noisy"),
        ({"NPAR": 4, "NCORE": 4}, "VASP takes NPAR"),
        ({"NBANDS": 40}, "for all structures"),
    ],
)
def test_what_surprises_is_said(incar, words):
    campaign(incar)
    (said,) = doubts(incar)
    assert words in said


def test_what_is_usual_raises_no_doubt():
    usual = {"ENCUT": 520, "EDIFF": 1e-6, "ALGO": "normal", "PREC": "accurate", "ISMEAR": 0}
    usual |= {"SIGMA": 0.05, "LREAL": False, "NELM": 200, "KPAR": 2, "LHFCALC": True}
    assert list(doubts(campaign(usual).relaxation.engine.incar)) == []
    assert list(doubts({"METAGGA": "R2SCAN", "LUSE_VDW": True, "GGA": "ML"})) != []

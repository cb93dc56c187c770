"""INCAR tags of a campaign: what cannot work is refused, what surprises is said, before a run."""

import pytest

from ccdcgan.dft.engines.vasp.doubts import doubts
from ccdcgan.dft.engines.vasp.settings import VaspEngine
from ccdcgan.dft.errors import UserError
from ccdcgan.launchers.results.retry import parse_incar
from ccdcgan.workflows.campaign import parse_campaign

LEVEL = VaspEngine().level_of_theory()


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
        *(
            ({"ALGO": word}, f"ALGO: {word!r} gives no energy of a ground state")
            for word in (
                *("None", "Nothing", "Exact", "Eigenval", "Subrot", "CHI", "GW0", "EVGW", "BSE"),
                *("TIMEEV", "TDHF", "ACFDT", "RPA"),
            )
        ),
        ({"IALGO": 2}, "IALGO: 2 gives no energy"),
        ({"SYMPREC": 1.0}, "SYMPREC: 1.0 is no number from 0 to 0.01"),
        ({"ISYM": 5}, "ISYM: VASP knows no 5"),
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


@pytest.mark.parametrize("word", ["Normal", "n", "Fast", "VERYFAST", "All", "a", "Damped", "Conj"])
def test_algorithms_of_the_ground_state(word):
    assert campaign({"ALGO": word}).relaxation.engine.level_of_theory() == LEVEL


@pytest.mark.parametrize("step", [{"ALGO": "None"}, {"IBRION": 6}, {"NELM": 0}, {"SYMPREC": 1.0}])
def test_what_is_tried_again_passes_the_same_checks(step):
    """Steps of the ladder, and `retry --incar`."""
    (tag,) = step
    engine = {"name": "vasp", "ladder": [{}, step]}
    with pytest.raises(UserError, match=f"{tag}: "):
        parse_campaign({"relaxation": {"engine": engine}}, "x")
    words = [f"{tag} = {step[tag]}"]
    with pytest.raises(UserError, match=f"--incar {tag}: ") as refused:
        parse_incar(words, campaign({}))
    assert "\n" not in str(refused.value)


def test_what_is_tried_again_is_a_number_where_vasp_reads_one():
    for word in ("KPAR=abc", "IBRION=-1", "NCORE=0"):
        with pytest.raises(UserError, match="--incar "):
            parse_incar([word], campaign({}))
    assert parse_incar(["ALGO=All", "IBRION=1", "KPAR=2"], campaign({}))["KPAR"] == 2


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

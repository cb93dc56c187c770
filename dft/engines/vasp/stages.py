"""Stages of a calculation by VASP, as a campaign file has them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag

from ccdcgan.dft.settings import Settings

#: What a stage does.
Stage = Literal["relax", "static"]

#: How a campaign file names a class.
CLASS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def upper(incar: Mapping[str, Any]) -> dict[str, Any]:
    """INCAR tags in the letters of VASP."""
    return {str(tag).upper(): value for tag, value in incar.items()}


def _class_name(text: str) -> str:
    if not CLASS.fullmatch(text):
        raise ValueError("a maker is written as package.module:Class")
    return text


class OwnStage(Settings):
    """A stage with INCAR tags of its own, as in {kind: static, incar: {METAGGA: R2SCAN}}."""

    kind: Stage
    incar: Annotated[dict[str, Any], AfterValidator(upper)] = Field(min_length=1)


class MakerStage(Settings):
    """A stage whose inputs a maker of atomate2 writes; see `makers`."""

    added: ClassVar[frozenset[str]] = frozenset({"parameters"})

    kind: Stage
    maker: Annotated[str, AfterValidator(_class_name)] = Field(
        description="A class with an input-set generator, as package.module:Class."
    )
    parameters: dict[str, Any] = Field({}, description="What the class is called with.")


class MakerInputs(Settings):
    """What of a maker's inputs decides energies: the level of theory of its stage."""

    incar: dict[str, Any] = Field(description="Tags but for those that follow the structure.")
    hubbard: dict[str, list[float]] = Field(
        {}, description="LDAUL, LDAUU, LDAUJ and LDAUTYPE of an element that has U."
    )
    kpoints: list[list[Any]] = Field(description="Style and divisions for each reference cell.")
    functional: str = Field(description="Set of POTCARs.")
    potcars: dict[str, str] = Field(description="POTCAR of each element.")


def _form_of(stage: Any) -> str:
    if isinstance(stage, MakerStage) or (isinstance(stage, Mapping) and "maker" in stage):
        return "maker"
    return "own" if isinstance(stage, (OwnStage, Mapping)) else "plain"


AnyStage = Annotated[
    Annotated[Stage, Tag("plain")]
    | Annotated[OwnStage, Tag("own")]
    | Annotated[MakerStage, Tag("maker")],
    Discriminator(_form_of),
]

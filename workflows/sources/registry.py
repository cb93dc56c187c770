"""Which proposal sources there are: our own, and those of other packages by entry points.

A package of its own adds a source with a function as `base.Source`, and an entry point:

    [project.entry-points."ccdcgan.sources"]
    my-source = "my_package:my_source"
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from ccdcgan.dft.mistakes import did_you_mean, shown

if TYPE_CHECKING:
    from ccdcgan.workflows.sources.base import Source

GROUP = "ccdcgan.sources"

#: Those of this package, each in the module of its name. Keras takes seconds to import, and only
#: what proposes needs it.
OWN = ("stackings", "substitution", "variation", "random", "wyckoff", "generator")


def names() -> list[str]:
    """Names of all sources that this environment has."""
    return sorted({*OWN, *(point.name for point in entry_points(group=GROUP))})


def check_source(name: str) -> str:
    """The name of a source that there is.

    Raises
    ------
    ValueError
        There is none; the text says which there are.
    """
    known = names()
    if name not in known:
        raise ValueError(
            f"there is no source {shown(name)} here{did_you_mean(name, known)} (there are "
            f"{', '.join(known)}; others come with packages that declare an entry point in {GROUP})"
        )
    return name


def source_of(name: str) -> Source:
    """A source; that of another package is imported now.

    Raises
    ------
    ValueError
        There is none of this name, or it cannot be imported; the text says why.
    """
    check_source(name)
    if name in OWN:
        found: Callable[..., Any] = getattr(
            import_module(f"ccdcgan.workflows.sources.{name}"), name
        )
        return found
    try:
        loaded: Callable[..., Any] = entry_points(group=GROUP)[name].load()
    except (Exception, SystemExit) as error:  # noqa: BLE001  a package of somebody else's
        said = " ".join(str(error).split())[:200]
        raise ValueError(f"source {name!r} cannot be imported: {said}") from None
    return loaded

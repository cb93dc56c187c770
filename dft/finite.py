"""Numbers that may be missing, but are finite where they are there."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BeforeValidator


def _finite(value: Any) -> Any:
    """A number, or None for one that is not finite: failed calculations have left such."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


#: A number that may be missing, and is finite where it is there.
FiniteOrNone = Annotated[float | None, BeforeValidator(_finite)]

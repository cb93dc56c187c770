"""Inverse design of crystals: the names that programs may rely on.

All other modules may change from one version to the next. Each name is loaded where it is first
used, so that the import itself takes no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ccdcgan.dft.errors import UserError
    from ccdcgan.launchers.local.evaluate import evaluate
    from ccdcgan.launchers.local.functions import predict, relax, run
    from ccdcgan.launchers.networks.sample import sample
    from ccdcgan.launchers.networks.train import train
    from ccdcgan.launchers.results.results import Results
    from ccdcgan.workflows.campaign import Campaign, load_campaign
    from ccdcgan.workflows.documents import Phase
    from ccdcgan.workflows.flow import InverseDesignMaker

    __version__: str

__all__ = [
    "Campaign",
    "InverseDesignMaker",
    "Phase",
    "Results",
    "UserError",
    "__version__",
    "evaluate",
    "load_campaign",
    "predict",
    "relax",
    "run",
    "sample",
    "train",
]

#: The module of each name.
_MODULES = {
    "Campaign": "workflows.campaign",
    "InverseDesignMaker": "workflows.flow",
    "Phase": "workflows.documents",
    "Results": "launchers.results.results",
    "UserError": "dft.errors",
    "evaluate": "launchers.local.evaluate",
    "load_campaign": "workflows.campaign",
    "predict": "launchers.local.functions",
    "relax": "launchers.local.functions",
    "run": "launchers.local.functions",
    "sample": "launchers.networks.sample",
    "train": "launchers.networks.train",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = import_module("importlib.metadata").version("ccdcgan")
    elif name in _MODULES:
        value = getattr(import_module(f"ccdcgan.{_MODULES[name]}"), name)
    else:
        raise AttributeError(f"module 'ccdcgan' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__

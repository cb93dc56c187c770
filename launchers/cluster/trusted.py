"""What of a database's jobs is believed: functions of packages that the user trusts.

FireWorks and jobflow import whatever a stored job names. Here a job is looked at before that, as
the dictionary that it is, and their decoders import nothing but packages that are known.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

from fireworks.utilities import fw_serializers
from monty.json import MontyDecoder

from ccdcgan.dft.engines.vasp.stages import CLASS
from ccdcgan.dft.trusted import PACKAGES, package_of, trust

#: Packages whose objects may be among what a job is given, and in what FireWorks keeps.
LIBRARIES = (
    *("pymatgen", "monty", "emmet", "custodian", "maggma", "ase", "numpy", "pandas", "pint"),
    *("datetime", "uuid", "pathlib", "bson", "fireworks"),
)

#: The one task of a job, as FireWorks stores it.
TASK = "{{jobflow.managers.fireworks.JobFiretask}}"

#: What the spec of a job may tell FireWorks: nothing that copies files, or runs beside the task.
ORDERS = frozenset(
    f"_{name}"
    for name in (
        *("tasks", "fworker", "category", "priority", "add_launchpad_and_fw_id", "queueadapter"),
        *("allow_fizzled_parents", "fizzled_parents", "exception_details", "preserve_fworker"),
    )
)


class UntrustedError(ValueError):
    """What is stored names something that is not trusted; the text says what."""


def objection(job: Mapping[str, Any], packages: Iterable[str]) -> str | None:
    """Why a stored job must not be run, or None; nothing but trusted packages is imported.

    Parameters
    ----------
    job
        FireWorks' document, with its launches or without.
    packages
        Trusted ones beside `PACKAGES`.
    """
    trusted = {*PACKAGES, *packages}
    spec = job.get("spec")
    tasks = spec.get("_tasks") if isinstance(spec, Mapping) else None
    if not isinstance(tasks, list) or len(tasks) != 1 or not isinstance(tasks[0], Mapping):
        return "it has not one task"
    name, call = tasks[0].get("_fw_name"), tasks[0].get("job")
    if name != TASK or not isinstance(call, Mapping):
        return f"its task is {name!r}, not one of jobflow's"
    if orders := sorted(str(k) for k in spec or {} if str(k).startswith("_") and k not in ORDERS):
        return f"its spec has {orders[0]!r}"
    if (call.get("@module"), call.get("@class")) != ("jobflow.core.job", "Job"):
        return "what its task runs is no job of jobflow's"
    function = call.get("function")
    if not isinstance(function, Mapping) or not _is_function(function, trusted):
        named = function.get("@module") if isinstance(function, Mapping) else function
        called = function.get("@callable") if isinstance(function, Mapping) else ""
        return f"it calls {called!r} of {named!r}"
    for part in _dictionaries(job):
        if part.get("_fw_name", TASK) != TASK:
            return f"it holds {part['_fw_name']!r} of FireWorks"
        if not _is_known(part, trusted | set(LIBRARIES)):
            return f"it holds {part.get('@class', part.get('@callable'))!r} of {part['@module']!r}"
        maker = part.get("maker")
        if isinstance(maker, str) and CLASS.fullmatch(maker) and package_of(maker) not in trusted:
            return f"a stage of its campaign is by {maker!r}"
    return None


def restrict(packages: Iterable[str]) -> None:
    """Let FireWorks and jobflow decode objects of known packages only, in this process.

    Results of other jobs, and jobs beside the one that runs, are decoded out of our sight. Makers
    of a campaign's stages are imported from trusted packages only, also in processes of this one.
    """
    packages = tuple(packages)
    trust(packages)
    _decodable.update(packages)
    MontyDecoder.process_decoded = _process_decoded  # type: ignore[method-assign, assignment]
    fw_serializers.load_object = _load_object


_decodable = {*PACKAGES, *LIBRARIES}
_of_monty, _of_fireworks = MontyDecoder.process_decoded, fw_serializers.load_object


def _process_decoded(decoder: MontyDecoder, value: Any) -> Any:
    if isinstance(value, Mapping) and not _is_known(value, _decodable):
        raise UntrustedError(_refusal(value["@module"]))
    return _of_monty(decoder, value)


def _load_object(value: Mapping[str, Any]) -> Any:
    name = str(value["_fw_name"]).strip("{} ")
    # Without a dot it is one of FireWorks' own.
    if "." in name and package_of(name) not in _decodable:
        raise UntrustedError(_refusal(name))
    return _of_fireworks(value)


def _refusal(name: object) -> str:
    return (
        f"a stored document names {str(name)[:80]!r}, which is not trusted: if it is yours, add "
        "its package to `trusted` in my_fireworks.yaml"
    )


def _dictionaries(value: Any) -> Iterator[Mapping[str, Any]]:
    """All dictionaries in a document, however deep."""
    left = [value]
    while left:
        value = left.pop()
        if isinstance(value, Mapping):
            yield value
            left.extend(value.values())
        elif isinstance(value, (list, tuple)):
            left.extend(value)


def _is_known(value: Mapping[str, Any], packages: set[str]) -> bool:
    """Whether what a dictionary names, if it names something, comes from known packages."""
    if "@module" not in value:
        return True
    if package_of(value["@module"]) not in packages:
        return False
    return "@callable" not in value or _is_function(value, packages)


def _is_function(value: Mapping[str, Any], packages: set[str]) -> bool:
    """Whether a stored function is one of these packages, not only one that they have imported."""
    module, path, bound = value.get("@module"), value.get("@callable"), value.get("@bound")
    if not isinstance(path, str):
        return False
    parts = path.split(".")
    if bound is not None:
        # A method of the object's class, perhaps inherited, and nothing that the object holds.
        if not isinstance(bound, Mapping) or len(parts) != 2:
            return False
        module, parts = bound.get("@module"), [str(bound.get("@class")), parts[1]]
    if package_of(module) not in packages:
        return False
    try:
        found: Any = import_module(str(module))
        for part in parts:
            found = inspect.getattr_static(found, part)
            found = getattr(found, "__func__", found)
            if isinstance(found, ModuleType):
                return False
    except ImportError:
        # Nothing of it can run: the decoder says what is missing.
        return True
    except AttributeError:
        return False
    return callable(found) and package_of(getattr(found, "__module__", "")) in packages

"""FireWorks' and jobflow's files, made of ``my_fireworks.yaml``."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from ccdcgan.dft.files import write_atomically
from ccdcgan.dft.variables import PREFIX
from ccdcgan.launchers.cluster.settings import Cluster, Worker
from ccdcgan.launchers.cluster.variables import ENVIRONMENT, environment_text
from ccdcgan.launchers.cluster.walltime import walltime_seconds
from ccdcgan.workflows.storage.stores import DATA, PHASES, RESULTS

#: Least timeout of a lock that a killed worker left on a campaign, s.
LOCKED = 60.0

#: Names of the files that the workers of a folder share.
JOBSTORE, FIREWORKS = "jobflow.yaml", "FW_config.yaml"


def write_files(cluster: Cluster, folder: Path, campaign: str | None = None) -> None:
    """Write what ``lpad``, ``rlaunch`` and ``qlaunch -c FOLDER/<class>`` read.

    The addresses are in them, so that a node needs no credentials of its own: nobody else may
    read them.

    Parameters
    ----------
    campaign
        The only one whose jobs the workers take; None for all.
    """
    folder = folder.expanduser().absolute()
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "PING_TIME_SECS": cluster.heartbeat,
        "RUN_EXPIRATION_SECS": cluster.lost_after,
        "WFLOCK_EXPIRATION_SECS": max(LOCKED, cluster.lost_after),
        "WFLOCK_EXPIRATION_KILL": True,
        "SORT_FWS": "FIFO",
        "QUEUE_UPDATE_INTERVAL": 1,
        "RAPIDFIRE_SLEEP_SECS": 5,
    }
    _write(folder / FIREWORKS, settings)
    _write(folder / JOBSTORE, {"JOB_STORE": _job_store_spec(cluster)}, secret=True)
    _write_text(folder / ENVIRONMENT, _environment(cluster, folder))
    for name, worker in cluster.workers.items():
        write_class(cluster, folder, name, worker, campaign)
    _write(folder / "my_launchpad.yaml", _launchpad_settings(cluster), secret=True)


def write_class(
    cluster: Cluster, folder: Path, name: str, worker: Worker, campaign: str | None = None
) -> None:
    """Write what workers of a class read, into a folder of its own beside the others."""
    own = folder / name
    own.mkdir(exist_ok=True)
    _write(own / "my_launchpad.yaml", _launchpad_settings(cluster), secret=True)
    # FireWorks' own test for the name cannot use an index.
    query = {"spec._fworker": name, **({"spec.campaign": campaign} if campaign else {})}
    trusted = {"trusted": list(cluster.trusted)}
    fworker = {"name": name, "category": "", "query": json.dumps(query), "env": trusted}
    _write(own / "my_fworker.yaml", fworker)
    # The environment of my_fireworks.yaml may hold a key, and that file be its owner's alone.
    _write(own / "my_qadapter.yaml", adapter_settings(worker, name, folder), secret=True)


def _launchpad_settings(cluster: Cluster) -> dict[str, object]:
    return {
        "host": cluster.launchpad.uri,
        "name": cluster.launchpad.database,
        "uri_mode": True,
        "logdir": None,
        "strm_lvl": "INFO",
        "mongoclient_kwargs": {"serverSelectionTimeoutMS": 30000},
    }


def adapter_settings(
    worker: Worker, name: str, folder: Path, queue_job: str | None = None
) -> dict[str, object]:
    """What is in my_qadapter.yaml of a class, for a worker with the files of a folder.

    Parameters
    ----------
    queue_job
        Under what the worker of a single queue job signs in.
    """
    before = [f"source {shlex.quote(str(folder / ENVIRONMENT))}"]
    before += [f"module load {shlex.quote(module)}" for module in worker.modules]
    before += [f"export {key}={shlex.quote(v)}" for key, v in worker.environment.items()]
    if queue_job is not None:
        before.append(f"export {PREFIX}QUEUE_JOB={queue_job}")
    seconds = walltime_seconds(worker.queue)
    if seconds is not None:
        # Not every queue tells its jobs when they end.
        before.append(f"export CCDCGAN_END_TIME=$(( $(date +%s) + {seconds} ))")
    before += worker.before
    command = [sys.executable, "-m", "ccdcgan.launchers.cli", "worker", str(folder / name)]
    template = worker.queue.template_path()
    return {
        "_fw_name": "CommonAdapter",
        "_fw_q_type": worker.queue.type,
        "_fw_template_file": str(template.absolute()),
        **worker.queue.parameters,
        "job_name": f"ccdcgan-{name}",
        "pre_rocket": "\n".join(before),
        "rocket_launch": shlex.join(command) + f" --idle {worker.idle:g}",
    }


def _environment(cluster: Cluster, folder: Path) -> str:
    root = cluster.root
    return environment_text(
        {
            "FW_CONFIG_FILE": folder / FIREWORKS,
            "JOBFLOW_CONFIG_FILE": folder / JOBSTORE,
            "CCDCGAN_CALCULATIONS": root / "calculations",
            "CCDCGAN_CHECKPOINTS": root / "checkpoints",
            "CCDCGAN_LOGS": root / "logs",
            "CCDCGAN_SPOOL": root / "spool",
            "CCDCGAN_PATIENCE": f"{cluster.patience:g}",
        }
    )


def _job_store_spec(cluster: Cluster) -> dict[str, object]:
    def spec(store: Any, kind: str) -> dict[str, object]:
        return {
            "type": kind,
            "uri": store.uri,
            "database": store.database,
            "collection_name": store.collection_name,
            "mongoclient_kwargs": {"serverSelectionTimeoutMS": int(1000 * cluster.patience) + 5000},
        }

    return {
        "docs_store": spec(cluster.store_of("documents"), "MongoStore"),
        "additional_stores": {
            RESULTS: spec(cluster.store_of(RESULTS), "MongoStore"),
            DATA: spec(cluster.store_of(DATA), "GridFSStore"),
            PHASES: spec(cluster.store_of(PHASES), "MongoStore"),
        },
    }


def _write(path: Path, data: Mapping[str, object], secret: bool = False) -> None:
    stream = StringIO()
    yaml = YAML()
    yaml.width = 10000
    yaml.dump(dict(data), stream)
    _write_text(path, stream.getvalue(), secret)


def _write_text(path: Path, text: str, secret: bool = False) -> None:
    write_atomically(path, text, private=secret)

"""``my_fireworks.yaml``: database, worker classes and queues."""

from __future__ import annotations

import getpass
import string
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.files import file_stem
from ccdcgan.dft.mistakes import did_you_mean, shown, validated
from ccdcgan.dft.settings import FilePath
from ccdcgan.dft.trusted import PackageName
from ccdcgan.dft.yaml_files import read_yaml
from ccdcgan.launchers.cluster.database import SOON, Database, Section, Variable
from ccdcgan.workflows.storage.stores import DATA, PHASES, RESULTS

CLASSES = ("dft", "gpu", "light")
ClassName = Literal["dft", "gpu", "light"]

#: A run counts as lost after so many heartbeats that did not come.
MISSED_HEARTBEATS = 4


#: Names that MongoDB takes for a collection.
CollectionName = Annotated[str, Field(pattern=r"^\w[\w.-]{0,99}$")]


class Documents(Database):
    """Outputs of jobs: a collection."""

    collection: CollectionName = "outputs"


class Blobs(Database):
    """Networks and large outputs: GridFS."""

    collection: CollectionName = "blobs"


class Results(Database):
    """Relaxations under their content keys, and phases."""

    relaxations: CollectionName = "relaxations"
    phases: CollectionName = "phases"


class Stores(Section):
    """Where results are kept."""

    documents: Documents = Documents()
    blobs: Blobs = Blobs()
    results: Results = Results()


class Queue(BaseModel):
    """A queue; further keys go into the template of its scripts."""

    model_config = ConfigDict(extra="allow", frozen=True)

    type: Literal["SLURM", "PBS", "SGE", "Cobalt", "LoadLeveler", "LoadSharingFacility", "MOAB"] = (
        "SLURM"
    )
    template: FilePath | None = Field(None, description="Instead of the one of its type.")

    @model_validator(mode="after")
    def _in_template(self) -> Queue:
        known = self.template_keys()
        for key, value in self.parameters.items():
            if key not in known:
                raise ValueError(
                    f"the template of {self.type} has no {shown(key)}{did_you_mean(key, known)} "
                    f"(it has {', '.join(sorted(known))})"
                )
            if not isinstance(value, (str, int, float)):
                raise ValueError(f"{key} is a text or a number, not {shown(value)}")
        return self

    @property
    def parameters(self) -> dict[str, object]:
        """What goes into the template."""
        return dict(self.model_extra or {})

    def template_path(self) -> Path:
        """The template: the user's, else ours, else FireWorks' own."""
        # Not imported: FireWorks reads its settings then, which are written later.
        found = find_spec("fireworks")
        if found is None or found.origin is None:
            raise UserError("a cluster needs FireWorks: pip install 'ccdcgan[cluster]'")
        if self.template is not None:
            return self.template.expanduser()
        ours = Path(__file__).parent / "templates" / f"{self.type}.txt"
        if ours.is_file():
            return ours
        adapters = Path(found.origin).parent / "user_objects" / "queue_adapters"
        return adapters / f"{self.type}_template.txt"

    def template_keys(self) -> set[str]:
        """What the template asks for, less what we fill in."""
        path = self.template_path()
        try:
            text = path.read_text()
        except OSError as error:
            raise ValueError(f"cannot read the template {path}: {error.strerror}") from None
        # FireWorks fills in names only, and drops the line of SLURM's gpu-bind.
        parts = string.Formatter().parse(text)
        keys = {key for _, key, _, _ in parts if key and key.isidentifier()}
        return keys - {"launch_dir", "rocket_launch", "pre_rocket", "post_rocket", "job_name"}


class Worker(Section):
    """How the jobs of one class run."""

    queue: Queue
    jobs: int = Field(1, ge=1, description="Most queue jobs at a time.")
    modules: tuple[str, ...] = Field((), description="For `module load`.")
    environment: dict[Variable, str] = Field(default_factory=dict)
    before: tuple[str, ...] = Field((), description="Shell commands before the worker starts.")
    idle: float = Field(
        60.0, ge=0, description="Seconds that a worker without work waits for more."
    )


class Cluster(Section):
    """All that is in ``my_fireworks.yaml``."""

    folder: FilePath = Field(
        Path("~/ccdcgan"),
        description="On a disk that all nodes see: calculations, checkpoints, logs.",
    )
    launchpad: Database = Database()
    stores: Stores = Stores()
    heartbeat: float = Field(30.0, gt=0, description="Seconds between two signs of life of a run.")
    patience: float = Field(
        3600.0, ge=0, description="Seconds that a worker waits for a database that is away."
    )
    trusted: tuple[PackageName, ...] = Field(
        (),
        description="Packages whose functions jobs may call, and of whose makers stages may be, "
        "beside ccdcgan, atomate2 and jobflow.",
    )
    workers: dict[ClassName, Worker]

    @model_validator(mode="after")
    def _every_class(self) -> Cluster:
        for name in CLASSES:
            if name not in self.workers:
                raise ValueError(f"workers.{name} is missing: a campaign has jobs of all classes")
        return self

    @property
    def root(self) -> Path:
        """The folder on the shared disk."""
        return self.folder.expanduser().absolute()

    @property
    def config(self) -> Path:
        """Folder of what this user's workers read, which holds the database's address."""
        return self.root / "config" / file_stem(getpass.getuser())

    @property
    def lost_after(self) -> float:
        """Seconds without a sign of life after which a run counts as lost."""
        return MISSED_HEARTBEATS * self.heartbeat

    def ping(self) -> None:
        """See that the databases of results and jobs are there.

        Raises
        ------
        UserError
            One cannot be reached; one line, in which no password is.
        """
        self.stores.results.ping()
        self.launchpad.ping()

    def store_of(self, name: str) -> Any:
        """An unconnected maggma store: ``documents``, or one of the JobStore's additional ones."""
        from maggma.stores import MongoStore
        from maggma.stores.gridfs import GridFSStore

        # Reads are repeated by pymongo itself, once it finds the server again.
        options = {"serverSelectionTimeoutMS": SOON}
        if name == DATA:
            blobs = self.stores.blobs
            return GridFSStore.from_uri(
                blobs.uri, blobs.collection, database=blobs.database, mongoclient_kwargs=options
            )
        chosen: Database = self.stores.results
        collection = {
            "documents": self.stores.documents.collection,
            RESULTS: self.stores.results.relaxations,
            PHASES: self.stores.results.phases,
        }[name]
        key = {"documents": "uuid", RESULTS: "key", PHASES: "uid"}[name]
        if name == "documents":
            chosen = self.stores.documents
        return MongoStore.from_uri(
            chosen.uri, collection, database=chosen.database, key=key, mongoclient_kwargs=options
        )

    def job_store(self) -> Any:
        """The unconnected JobStore."""
        from jobflow import JobStore

        return JobStore(
            self.store_of("documents"),
            additional_stores={name: self.store_of(name) for name in (RESULTS, DATA, PHASES)},
        )


def load_cluster(path: Path) -> Cluster:
    """Read ``my_fireworks.yaml``.

    Raises
    ------
    UserError
        The file cannot be read, has an unknown key or a value that does not fit.
    """
    if not path.exists():
        raise UserError(
            f"there is no {path}: copy my_fireworks.yaml from ccdcgan's repository and edit it, or "
            "name yours with --config"
        )
    return validated(Cluster, read_yaml(path), str(path), {"folder": path.absolute().parent})

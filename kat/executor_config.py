"""Where the work is done: in this process and its own, or on the workers of a Ray cluster. It changes no result."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from kat.config import NOT_RECORDED
from kat.errors import OptionError
from kat.panels import MACHINE
from kat.parameters import flag, integer, number, one_of, option, whole_number


@Parameter(name="*", group=MACHINE)
@dataclass(frozen=True)
class ExecutorOptions:
    """Who embeds and searches: an executor is how, not what, so that no manifest holds any of this."""

    executor: Annotated[
        Literal["local", "ray"], option("Who computes: this machine's processes, or the workers of a Ray cluster.")
    ] = field(default="local", metadata=NOT_RECORDED)
    ray_address: Annotated[
        str | None, option("HOST:PORT of a Ray cluster, or auto for the one of this machine [default: start one here].")
    ] = field(default=None, metadata=NOT_RECORDED)
    ray_workers: Annotated[
        int | None, integer("Workers on Ray [default: as many as its cores or graphics devices allow].")
    ] = field(default=None, metadata=NOT_RECORDED)
    cpus_per_worker: Annotated[int, integer("Cores, and so threads, of a worker on Ray.")] = field(
        default=1, metadata=NOT_RECORDED
    )
    gpus_per_worker: Annotated[
        float | None,
        option("Graphics devices of a worker on Ray [default: 1 where the cluster has any and --device allows it]."),
    ] = field(default=None, metadata=NOT_RECORDED)
    shared_dir: Annotated[
        Path | None, option("A folder that all machines see: workers on Ray hand over their vectors there.")
    ] = field(default=None, metadata=NOT_RECORDED)
    mixed_workers: Annotated[
        bool, flag("Take workers on Ray that round otherwise than each other; the manifest lists them.")
    ] = field(default=False, metadata=NOT_RECORDED)

    def __post_init__(self) -> None:
        one_of("executor", self.executor, ("local", "ray"))
        whole_number("cpus_per_worker", self.cpus_per_worker)
        if self.ray_workers is not None:
            whole_number("ray_workers", self.ray_workers)
        if self.gpus_per_worker is not None:
            number("gpus_per_worker", self.gpus_per_worker)
        if self.executor == "local":
            defaults = type(self).__dataclass_fields__
            for name in set(defaults) - {"executor"}:
                if getattr(self, name) != defaults[name].default:
                    raise OptionError(f"{name} is for workers on Ray: add --executor ray, or leave it out.")

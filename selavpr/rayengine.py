"""Extraction spread over a Ray cluster: the home of ``ray``.

Ray Data holds one actor per GPU or, without GPUs, per group of cores; each has the model and makes
whole parts (``building``). So photos meet in the same passes as in one process, and a core group is
as large as the number of threads torch uses on the machine that gives the command: with processors
of one kind the features are equal to the last bit. With another number of threads they are not:
sums of a product are then cut elsewhere, and a descriptor's last bit may differ (by 3e-8).

The machines share the file system that the photos lie on; features come back over the network, and
the machine that gives the command alone writes. ``ray`` is imported where it is used, so that
nothing else needs it.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import platform
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import selavpr
from selavpr.building import part_of
from selavpr.errors import IndexFileError, OptionError, SelaVPRError
from selavpr.featurecache import file_states
from selavpr.model import SelaVPR
from selavpr.weights import Weights

ADDRESS = "RAY_ADDRESS"
"""Environment variable with the cluster's address, ``HOST:PORT`` or ``auto``, as Ray has it."""

ANSWER_S = 10.0
"""Seconds a cluster may take to answer."""

SEEN = 8
"""Photos of which a worker has to see one, as proof that it has the same file system."""


def load() -> Any:
    """Import Ray and Ray Data.

    Raises:
        OptionError: they are not installed.
    """
    try:
        importlib.import_module("ray.data")
        return importlib.import_module("ray")
    except ImportError as error:
        raise OptionError(
            '--engine ray needs Ray, which is not installed: pip install "ray[data]>=2.51" '
            f"({error})."
        ) from error


@dataclass(frozen=True)
class RayEngine:
    """A ``building.Engine`` on a cluster; ``connected`` makes it.

    Attributes:
        device: of the workers, ``"cpu"`` or ``"cuda"``.
        workers: actors that extract at a time.
        machines: that they are on.
        threads: of each worker, cores that are reserved for it.
    """

    device: str
    workers: int
    machines: int
    threads: int

    def __str__(self) -> str:
        """In words, for people."""
        each = "GPUs of each: 1" if self.device == "cuda" else f"threads of each: {self.threads}"
        return f"Ray workers: {self.workers}, on machines: {self.machines}, {each}"

    def decides(self, model: SelaVPR) -> tuple[str, int]:
        """What of the machines decides the last bits: type of device, threads (0 on a GPU)."""
        return self.device, self.threads if self.device == "cpu" else 0

    def parts(
        self, groups: Mapping[int, Sequence[Path]], model: SelaVPR, batch_size: int
    ) -> Iterator[tuple[int, bytes]]:
        """The part of each group of photos, as the workers finish them.

        Args:
            groups: photos by the number of their part.
            model: extracts; a copy of it goes to every worker.
            batch_size: photos per pass.

        Raises:
            IndexFileError: the model gives no usable features, a worker does not see the photos or
                is of another version, or the cluster fails.
        """
        ray = load()
        data = ray.data
        task = _Task(
            selavpr.__version__,
            model.to_weights(),
            self.device,
            str(model.precision).removeprefix("torch."),
            max(self.threads, 1),
            batch_size,
            _some_states(groups),
        )
        items = [
            # Names of files need not be text.
            {"number": number, "paths": b"\0".join(os.fsencode(path.absolute()) for path in paths)}
            for number, paths in groups.items()
        ]
        context = data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        rows = data.from_items(items, override_num_blocks=len(items)).map(
            _Worker,
            fn_constructor_args=(ray.put(task),),
            compute=data.ActorPoolStrategy(size=min(self.workers, len(items))),
            num_cpus=self.threads,
            num_gpus=1 if self.device == "cuda" else 0,
        )
        try:
            for row in rows.iter_rows():
                if row["error"]:
                    raise IndexFileError(row["error"])
                yield int(row["number"]), row["part"]
        except SelaVPRError:
            raise
        except Exception as error:  # Ray's own have no common root
            raise IndexFileError(
                f"Extraction on the Ray cluster failed: {_last_line(error)}. All its machines need "
                "this package and what it needs. What is done so far is kept; the same command "
                "goes on from there."
            ) from error


@contextlib.contextmanager
def connected(device: str = "auto") -> Iterator[RayEngine]:
    """Join the cluster that ``RAY_ADDRESS`` names or that runs on this machine, or start one.

    Args:
        device: of the workers; ``"auto"`` takes GPUs where the cluster has some.

    Yields:
        The engine. What was joined or started here is left or shut down at the end, whatever ends.

    Raises:
        OptionError: Ray is not installed, the cluster cannot be reached, or it has nothing to
            extract on.
    """
    ray = load()
    if ray.is_initialized():
        yield _engine(ray, device)
        return
    _join(ray)
    try:
        yield _engine(ray, device)
    finally:
        ray.shutdown()


def _join(ray: Any) -> None:
    address = os.environ.get(ADDRESS, "")
    if "://" in address:
        raise OptionError(
            f"{ADDRESS}={address} leads into the cluster from outside, where these photos are not. "
            f"Run the command on a machine of the cluster, with {ADDRESS}=auto."
        )
    host, colon, port = address.rpartition(":")
    try:
        if colon:  # or Ray would try for minutes
            socket.create_connection((host.strip("[]"), int(port)), ANSWER_S).close()
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, OverflowError, RuntimeError) as error:
        ray.shutdown()
        where = f"The Ray cluster at {address}" if address else "Ray on this machine"
        raise OptionError(
            f"{where} cannot be reached: {_last_line(error)}. Set {ADDRESS} to HOST:PORT of a "
            f"running cluster that this machine belongs to, or to nothing to start one here."
        ) from error
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # it tells of every step


def _engine(ray: Any, device: str) -> RayEngine:
    """Share out what the machines of the cluster offer."""
    offers = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    graphics = [
        (int(offer["GPU"]), int(offer.get("CPU", 0)))
        for offer in offers
        if offer.get("GPU", 0) >= 1
    ]
    kind = device.partition(":")[0]
    if kind == "cuda" or (kind == "auto" and graphics):
        if not graphics:
            raise OptionError("The Ray cluster has no GPU; use --device cpu.")
        # Their cores open photos.
        cores = min(cpus // gpus for gpus, cpus in graphics)
        return RayEngine("cuda", sum(gpus for gpus, _ in graphics), len(graphics), cores)
    cpus = [int(offer["CPU"]) for offer in offers if offer.get("CPU", 0) >= 1]
    if not cpus:
        raise OptionError("The Ray cluster has no processor to offer; add machines to it.")
    threads = min(torch.get_num_threads(), max(cpus))
    groups = [count // threads for count in cpus if count >= threads]
    return RayEngine("cpu", sum(groups), len(groups), threads)


@dataclass(frozen=True)
class _Task:
    """What every worker gets.

    Attributes:
        version: of this package.
        weights: of the model.
        device: to place it on.
        precision: of the arithmetic.
        threads: torch may use.
        batch_size: photos per pass.
        states: of some photos, as this machine sees them, see ``file_states``.
    """

    version: str
    weights: Weights
    device: str
    precision: Any
    threads: int
    batch_size: int
    states: list[tuple[str, int, int]]


class _Worker:
    """Makes parts in a process of the cluster.

    What is wrong travels as a value: as an exception it would arrive wrapped in Ray's own words.
    """

    def __init__(self, task: Any) -> None:
        """Load the model.

        Args:
            task: reference to a ``_Task`` in Ray's store.
        """
        self._task: _Task = load().get(task)
        self._problem = _unfit(self._task)
        if not self._problem:
            torch.set_num_threads(self._task.threads)
            self._model = SelaVPR.from_weights(
                self._task.weights, device=self._task.device, precision=self._task.precision
            )

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """``number`` and ``paths`` of a group to ``number``, ``part`` and ``error``."""
        part, error = b"", self._problem
        if not error:
            paths = [Path(os.fsdecode(path)) for path in row["paths"].split(b"\0")]
            try:
                part = part_of(paths, self._model, self._task.batch_size)
            except SelaVPRError as found:
                error = str(found)
        return {"number": row["number"], "part": part, "error": error}


def _unfit(task: _Task) -> str:
    """Why this machine cannot work on a task; empty when it can."""
    if selavpr.__version__ != task.version:
        return (
            f"{platform.node()} of the Ray cluster has selavpr {selavpr.__version__}, this machine "
            f"{task.version}; install the same everywhere."
        )
    if task.states:
        here = file_states(Path(path) for path, _, _ in task.states)
        if not any(a[1] == b[1] for a, b in zip(here, task.states, strict=True)):
            return (
                f"{platform.node()} of the Ray cluster does not see {task.states[0][0]}; photos "
                "must lie on a file system that all its machines share, under the same path."
            )
    return ""


def _some_states(groups: Mapping[int, Sequence[Path]]) -> list[tuple[str, int, int]]:
    """Of a few photos that this machine sees."""
    first = (paths[0].absolute() for paths in groups.values())
    found: list[tuple[str, int, int]] = []
    for state in file_states(first):
        if state[1] and len(found) < SEEN:
            found.append(state)
    return found


def _last_line(error: Exception) -> str:
    """The end of what an exception says: Ray puts the traceback of the worker in front."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__).rstrip(".")

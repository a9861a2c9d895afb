"""Builds on a Ray cluster of two machines of one core each, as far as Ray can tell.

Run by test_rayengine.py as ``python ray_builder.py SOURCE WORKPLACE``, in a process of its own,
which Ray's threads, signals and warnings leave with it. Prints JSON: what was seen.
"""

from __future__ import annotations

import contextlib
import io
import json
import socket
import sys
from pathlib import Path

import pytest
import torch
from conftest import TINY, random_model
from engine_fixtures import MANIFEST
from ray.cluster_utils import Cluster

from selavpr import SelaVPR, building, cli
from selavpr.building import build
from selavpr.index import work_folder
from selavpr.rayengine import ADDRESS, connected
from selavpr.sources import read_folder


def main(source: Path, workplace: Path) -> None:
    torch.set_num_threads(1)  # what a core group is, and what one process computes with
    building.PART = 2
    machines = Cluster(
        head_node_args={"include_dashboard": False, **machine()}, initialize_head=True
    )
    machines.add_node(**machine())
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(ADDRESS, machines.address)
            sys.stdout.write(json.dumps(seen(source, workplace, patch)) + "\n")
    finally:
        machines.shutdown()


def machine() -> dict[str, int]:
    """One core. With ports: Ray gives up where its agents take 15 s to choose theirs."""
    agents = ("metrics_agent", "metrics_export", "runtime_env_agent", "dashboard_agent_listen")
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(socket.socket()) for _ in agents]
        for free in found:
            free.bind(("", 0))
        ports = [free.getsockname()[1] for free in found]
    return {
        "num_cpus": 1,
        **{f"{agent}_port": port for agent, port in zip(agents, ports, strict=True)},
    }


def seen(source: Path, workplace: Path, patch: pytest.MonkeyPatch) -> dict[str, object]:
    photos, network = read_folder(source), random_model(TINY)
    found: dict[str, object] = {}
    progress: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        progress.append((done, total))
        if len(progress) == 3:
            raise KeyboardInterrupt

    with connected("cpu") as engine:
        found["engine"] = [engine.device, engine.workers, engine.machines, engine.threads]
        with contextlib.suppress(KeyboardInterrupt):
            build(workplace / "ray", photos, network, MANIFEST, engine=engine, progress=stop)
        found["progress"] = progress
        parts = work_folder(workplace / "ray") / "parts"
        found["parts"] = len(list(parts.glob("*.safetensors")))

        patch.setattr(SelaVPR, "from_pretrained", lambda *_, **__: network)
        for name, kind in (("one", "local"), ("ray", "ray")):
            said = io.StringIO()
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
                code = cli.main(
                    ["index", "build", str(workplace / name), "--from", str(source), "--quiet",
                     "--name", "x", "--engine", kind, "--device", "cpu"]
                )  # fmt: skip
            found[name] = [code, said.getvalue()]
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

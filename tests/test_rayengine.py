"""The Ray engine: the same bytes as one process, on a cluster of two workers; what can go wrong."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from engine_fixtures import MANIFEST, content, draw_town

import selavpr
from selavpr import IndexFileError, OptionError, SelaVPR, building, cli, rayengine
from selavpr.building import build, part_of
from selavpr.featurecache import file_states
from selavpr.index import PlaceIndex
from selavpr.rayengine import RayEngine, connected
from selavpr.sources import SourcePhoto
from selavpr.terminal import USER_ERROR

PHOTOS = 10


BUILDER = Path(__file__).parent / "ray_builder.py"


@pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="needs Ray")
def test_same_bytes_stopped_resumed_and_from_the_command_line(tmp_path: Path) -> None:
    """See ray_builder.py: the same photos on a cluster and in one process; one photo is none."""
    source = draw_town(tmp_path / "source", PHOTOS)
    (source / "images" / "5.png").write_bytes(b"no photo")
    done = subprocess.run(
        [sys.executable, str(BUILDER), str(source), str(tmp_path)],
        capture_output=True, text=True, timeout=900, cwd=BUILDER.parent.parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(BUILDER.parent.parent),
                                                          str(BUILDER.parent)]),
             # Machines that test are busy, and Ray lets its workers wait for everybody else.
             "RAY_raylet_start_wait_time_s": "300", "RAY_worker_niceness": "0"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    seen = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert seen["engine"] == ["cpu", 2, 2, 1]
    # Stopped after three parts of two photos; only those are kept, and not made again.
    assert seen["progress"] == [[2, PHOTOS], [4, PHOTOS], [6, PHOTOS]] and seen["parts"] == 3
    (one_code, one_said), (ray_code, ray_said) = seen["one"], seen["ray"]
    assert (one_code, ray_code) == (0, 0) and "left out: 5.png is not a photo" in one_said
    assert ray_said == "selavpr: Ray workers: 2, on machines: 2, threads of each: 1\n" + one_said
    one, many = (PlaceIndex.open(tmp_path / name) for name in ("one", "ray"))
    assert (one.searcher.descriptors() == many.searcher.descriptors()).all()  # to the last bit
    first, second = content(one.folder), content(many.folder)
    about = [json.loads(files.pop("manifest.json")) for files in (first, second)]
    assert first == second and len(first) > PHOTOS
    assert about[0]["files"] == about[1]["files"]


# Without a cluster


def worker(network: SelaVPR, monkeypatch: pytest.MonkeyPatch, **change: Any) -> rayengine._Worker:
    """A worker in this process."""
    about: dict[str, Any] = {
        "version": selavpr.__version__, "weights": network.to_weights(), "device": "cpu",
        "precision": "float32", "threads": torch.get_num_threads(), "batch_size": 2, "states": [],
    }  # fmt: skip
    monkeypatch.setattr(rayengine, "load", lambda: SimpleNamespace(get=lambda task: task))
    return rayengine._Worker(rayengine._Task(**{**about, **change}))


def test_a_worker_makes_what_one_process_makes(
    network: SelaVPR, photos: list[SourcePhoto], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [photo.path for photo in photos[:3]]
    row = {"number": 7, "paths": b"\0".join(os.fsencode(path) for path in paths)}
    made = worker(network, monkeypatch)(row)
    assert made == {"number": 7, "part": part_of(paths, network, 2), "error": ""}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": "0.0.1"}, "this machine 0.0.1; install the same"),
        ({"states": [("/nowhere/a.jpg", 5, 1)]}, "does not see /nowhere/a.jpg"),
    ],
)
def test_a_machine_that_does_not_fit(
    network: SelaVPR, photos: list[SourcePhoto], change: dict[str, Any], words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    row = {"number": 0, "paths": os.fsencode(photos[0].path)}
    made = worker(network, monkeypatch, **change)(row)
    assert words in made["error"] and made["part"] == b""


class FakeRay:
    """Ray as far as ``connected`` asks it."""

    def __init__(self, *machines: dict[str, float], running: bool = False) -> None:
        self.machines = machines
        self.running = running
        self.calls: list[str] = []

    def is_initialized(self) -> bool:
        return self.running

    def init(self, **_: Any) -> None:
        self.calls.append("init")

    def shutdown(self) -> None:
        self.calls.append("shutdown")

    def nodes(self) -> list[dict[str, Any]]:
        alive = [{"Alive": True, "Resources": offer} for offer in self.machines]
        return [*alive, {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    ray = FakeRay({"CPU": 8.0})
    monkeypatch.setattr(rayengine, "load", lambda: ray)
    monkeypatch.delenv(rayengine.ADDRESS, raising=False)
    return ray


@pytest.mark.parametrize(
    ("machines", "device", "expected"),
    [
        # Three threads, so a machine of eight cores holds two groups and one of two holds none.
        ([{"CPU": 8.0}, {"CPU": 2.0}, {"CPU": 3.0}, {}], "auto", RayEngine("cpu", 3, 2, 3)),
        ([{"CPU": 2.0}, {"CPU": 1.0}], "auto", RayEngine("cpu", 1, 1, 2)),
        ([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 32.0}], "auto", RayEngine("cuda", 2, 1, 4)),
        ([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 6.0, "GPU": 3.0}], "cuda", RayEngine("cuda", 5, 2, 2)),
        ([{"CPU": 9.0, "GPU": 2.0}], "cpu", RayEngine("cpu", 3, 1, 3)),
        ([{"CPU": 9.0, "GPU": 0.0}], "auto", RayEngine("cpu", 3, 1, 3)),
        ([{"CPU": 1.0, "GPU": 2.0}], "auto", RayEngine("cuda", 2, 1, 0)),
    ],
)
def test_sharing_out(
    fake: FakeRay, monkeypatch: pytest.MonkeyPatch, machines: list[dict[str, float]], device: str,
    expected: RayEngine,
) -> None:  # fmt: skip
    fake.machines = tuple(machines)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    with connected(device) as engine:
        assert engine == expected
    assert fake.calls == ["init", "shutdown"]


def test_what_decides_the_last_bits(network: SelaVPR) -> None:
    assert building.ONE_PROCESS.decides(network) == ("cpu", torch.get_num_threads())
    assert RayEngine("cpu", 9, 3, 4).decides(network) == ("cpu", 4)
    assert RayEngine("cuda", 9, 3, 4).decides(network) == ("cuda", 0)


@pytest.mark.parametrize(
    ("machines", "device", "words"),
    [([{"CPU": 8.0}], "cuda", "no GPU"), ([{"CPU": 0.0}, {}], "auto", "no processor")],
)
def test_a_cluster_with_nothing_to_offer(
    fake: FakeRay, machines: list[dict[str, float]], device: str, words: str
) -> None:
    fake.machines = tuple(machines)
    with pytest.raises(OptionError, match=words), connected(device):
        pass
    assert fake.calls == ["init", "shutdown"]


def test_ctrl_c_shuts_down_what_was_started(fake: FakeRay) -> None:
    for running, calls in ((False, ["init", "shutdown"]), (True, [])):
        fake.running, fake.calls = running, []
        with pytest.raises(KeyboardInterrupt), connected():
            raise KeyboardInterrupt
        assert fake.calls == calls  # Ray that somebody else has started stays


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1:PORT", "at 127.0.0.1:PORT cannot be reached: .*refused"),
        ("[::1]:PORT", "cannot be reached"),
        ("127.0.0.1:abc", "cannot be reached: invalid literal"),
        ("127.0.0.1:99999999999", "cannot be reached"),
        ("ray://head:10001", "from outside"),
    ],
)
def test_addresses_where_no_cluster_is(
    fake: FakeRay, monkeypatch: pytest.MonkeyPatch, address: str, words: str
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = str(closed.getsockname()[1])  # nobody listens there
        monkeypatch.setenv(rayengine.ADDRESS, address.replace("PORT", port))
        with pytest.raises(OptionError, match=words.replace("PORT", port)), connected():
            pass
    assert "init" not in fake.calls


def test_a_cluster_that_does_not_let_us_in(fake: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: Any) -> None:
        raise ConnectionError("Traceback of many lines\n  Could not find any running instance.\n")

    monkeypatch.setattr(fake, "init", init)
    monkeypatch.setenv(rayengine.ADDRESS, "auto")
    words = r"at auto cannot be reached: Could not find any running instance\. Set RAY_ADDRESS"
    with pytest.raises(OptionError, match=words), connected():
        pass
    monkeypatch.delenv(rayengine.ADDRESS)
    with pytest.raises(OptionError, match=r"^Ray on this machine cannot be reached"), connected():
        pass
    assert fake.calls == ["shutdown", "shutdown"]


class FakeData:
    """Ray Data that gives these rows, and then this error."""

    DataContext = SimpleNamespace(get_current=SimpleNamespace)

    def __init__(self, rows: list[dict[str, Any]], error: Exception | None = None) -> None:
        self.rows = rows
        self.error = error

    def ActorPoolStrategy(self, size: int) -> int:
        return size

    def from_items(self, items: list[dict[str, Any]], override_num_blocks: int) -> FakeData:
        assert override_num_blocks == len(items)  # or a part would wait for others
        return self

    def map(self, *_: Any, **options: Any) -> FakeData:
        assert options["num_gpus"] == 0 and options["compute"] == 1
        return self

    def iter_rows(self) -> Iterator[dict[str, Any]]:
        yield from self.rows
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize("kind", ["the cluster fails", "a worker says what is wrong"])
def test_what_is_done_is_kept_when(
    kind: str, fake: FakeRay, network: SelaVPR, photos: list[SourcePhoto], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    part = part_of([photo.path for photo in photos[4:8]], network, 8)
    data = FakeData([{"number": 1, "part": part, "error": ""}])
    if kind == "the cluster fails":
        data.error = RuntimeError("Traceback\nModuleNotFoundError: No module named 'selavpr'")
        words = r"failed: ModuleNotFoundError.*goes on from there"
    else:
        data.rows.append({"number": 0, "part": b"", "error": "The values are not finite."})
        words = r"^The values are not finite\.$"
    monkeypatch.setattr(fake, "data", data, raising=False)
    monkeypatch.setattr(fake, "put", lambda value: value, raising=False)
    monkeypatch.setattr(building, "PART", 4)
    engine = RayEngine("cpu", 1, 1, torch.get_num_threads())
    with pytest.raises(IndexFileError, match=words):
        build(tmp_path / "x", photos, network, MANIFEST, engine=engine)
    done: list[int] = []
    build(tmp_path / "x", photos, network, MANIFEST, progress=lambda n, _: done.append(n))
    assert done == [4, 8, 12]  # one process goes on from there
    build(tmp_path / "y", photos, network, MANIFEST)
    assert content(tmp_path / "x") == content(tmp_path / "y")


def test_some_photos_to_be_seen_by_workers(photos: list[SourcePhoto], tmp_path: Path) -> None:
    groups = {i: [photo.path] for i, photo in enumerate(photos)}
    groups[1] = [tmp_path / "absent.jpg"]
    states = rayengine._some_states(groups)
    kept = [paths[0] for i, paths in groups.items() if i != 1][: rayengine.SEEN]
    assert states == file_states(kept)


def test_ray_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def absent(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", absent)
    # Said before the source is looked at, which may mean hours of downloads.
    code = cli.main(["index", "build", str(tmp_path / "x"), "--from", "/no", "--engine", "ray"])
    assert code == USER_ERROR
    assert 'pip install "ray[data]>=2.51"' in capsys.readouterr().err

"""The Ray engine: the same bytes as one process, on a cluster of two workers; what can go wrong."""

from __future__ import annotations

import importlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from engine_fixtures import MANIFEST, content, draw_town

from selavpr import IndexFileError, OptionError, SelaVPR, building, cli, rayengine
from selavpr.building import build, part_of
from selavpr.featurecache import file_states
from selavpr.index import PlaceIndex, work_folder
from selavpr.rayengine import RayEngine, connected
from selavpr.sources import SourcePhoto, read_folder
from selavpr.terminal import USER_ERROR

PHOTOS = 10


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayEngine]:
    """Two machines of one core each, as far as Ray can tell; started once for this file."""
    pytest.importorskip("ray")
    utils = importlib.import_module("ray.cluster_utils")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # what a core group is, and what one process computes with
    machines = utils.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    machines.add_node(num_cpus=1)
    patch = pytest.MonkeyPatch()
    patch.setenv(rayengine.ADDRESS, machines.address)
    try:
        with connected("cpu") as engine:
            yield engine
    finally:
        patch.undo()
        machines.shutdown()
        torch.set_num_threads(threads)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten photos, in parts of two; one is none."""
    monkeypatch.setattr(building, "PART", 2)
    folder = draw_town(tmp_path / "source", PHOTOS)
    (folder / "images" / "5.png").write_bytes(b"no photo")
    return folder


def test_same_bytes_stopped_resumed_and_from_the_command_line(
    cluster: RayEngine, network: SelaVPR, source: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert cluster == RayEngine("cpu", workers=2, machines=2, threads=1)
    photos = read_folder(source)
    seen: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        seen.append((done, total))
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "b", photos, network, MANIFEST, engine=cluster, progress=stop)
    assert seen == [(2, PHOTOS), (4, PHOTOS), (6, PHOTOS)]
    kept = {path.name for path in (work_folder(tmp_path / "b") / "parts").iterdir()}
    assert len(kept) == 3

    monkeypatch.setattr(SelaVPR, "from_pretrained", lambda *_, **__: network)
    made = {}
    for name, engine in (("a", "local"), ("b", "ray")):
        command = ["index", "build", str(tmp_path / name), "--from", str(source), "--name", "x",
                   "--engine", engine, "--quiet", "--device", "cpu"]  # fmt: skip
        assert cli.main(command) == 0
        made[name] = capsys.readouterr()
    assert "left out: 5.png is not a photo" in made["a"].err
    words = "selavpr: Ray: 2 workers on 2 machines, 1 threads each\n"
    assert made["b"].err == words + made["a"].err
    one, many = (PlaceIndex.open(tmp_path / name) for name in ("a", "b"))
    assert (one.searcher.descriptors() == many.searcher.descriptors()).all()  # to the last bit
    first, second = content(one.folder), content(many.folder)
    about = [json.loads(files.pop("manifest.json")) for files in (first, second)]
    assert first == second and len(first) > PHOTOS
    assert about[0]["files"] == about[1]["files"]


def test_what_a_worker_finds_wrong_is_said_in_our_words(
    cluster: RayEngine, network: SelaVPR, source: Path, tmp_path: Path
) -> None:
    broken = SelaVPR(network.config).eval()
    torch.nn.init.constant_(broken.backbone.norm.weight, torch.inf)
    with pytest.raises(IndexFileError, match=r"^The model gives values that are not finite"):
        build(tmp_path / "x", read_folder(source), broken, MANIFEST, engine=cluster)


def test_a_worker_makes_what_one_process_makes(
    cluster: RayEngine, network: SelaVPR, photos: list[SourcePhoto]
) -> None:
    """The worker's own code, in this process."""
    paths = [photo.path for photo in photos[:3]]
    made = worker(network)({"number": 7, "paths": b"\0".join(os.fsencode(path) for path in paths)})
    assert made == {"number": 7, "part": part_of(paths, network, 2), "error": ""}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": "0.0.1"}, "has selavpr 0.0.1"),
        ({"states": [("/nowhere/a.jpg", 5, 1)]}, "does not see /nowhere/a.jpg"),
    ],
)
def test_a_machine_that_does_not_fit(
    cluster: RayEngine, network: SelaVPR, photos: list[SourcePhoto], change: dict[str, Any],
    words: str, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if version := change.pop("version", ""):
        monkeypatch.setattr(rayengine.selavpr, "__version__", version)
        change["version"] = "0.0.2"
    made = worker(network, **change)({"number": 0, "paths": os.fsencode(photos[0].path)})
    assert words in made["error"] and made["part"] == b""


def worker(network: SelaVPR, **change: Any) -> rayengine._Worker:
    about: dict[str, Any] = {
        "version": rayengine.selavpr.__version__, "weights": network.to_weights(), "device": "cpu",
        "precision": "float32", "threads": 1, "batch_size": 2, "states": [],
    }  # fmt: skip
    return rayengine._Worker(rayengine.load().put(rayengine._Task(**{**about, **change})))


# Without a cluster


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


def test_a_cluster_that_fails(
    fake: FakeRay, network: SelaVPR, photos: list[SourcePhoto], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """What is done is kept; one process goes on from there."""
    paths = [photo.path for photo in photos]

    def rows() -> Iterator[dict[str, Any]]:
        yield {"number": 1, "part": part_of(paths[4:8], network, 8), "error": ""}
        raise RuntimeError("Traceback\nModuleNotFoundError: No module named 'selavpr'")

    data = SimpleNamespace(
        DataContext=SimpleNamespace(get_current=SimpleNamespace),
        ActorPoolStrategy=lambda size: size,
        from_items=lambda items, override_num_blocks: SimpleNamespace(
            map=lambda *_, **__: SimpleNamespace(iter_rows=rows)
        ),
    )
    monkeypatch.setattr(fake, "data", data, raising=False)
    monkeypatch.setattr(fake, "put", lambda value: value, raising=False)
    monkeypatch.setattr(building, "PART", 4)
    engine = RayEngine("cpu", 1, 1, torch.get_num_threads())
    with pytest.raises(IndexFileError, match=r"failed: ModuleNotFoundError.*goes on from there"):
        build(tmp_path / "x", photos, network, MANIFEST, engine=engine)
    done: list[int] = []
    build(tmp_path / "x", photos, network, MANIFEST, progress=lambda n, _: done.append(n))
    assert done == [4, 8, 12]
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

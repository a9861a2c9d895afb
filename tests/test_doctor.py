"""What the doctor finds in installations that are well, and in broken ones."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from engine_fixtures import COUNT, content
from hub_server import HubServer, Repo
from huggingface_hub import constants
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_hub import closed_port, point_at

from selavpr import SelaVPR, cli, doctor, installed, weights
from selavpr.findings import Finding
from selavpr.machine import free_memory, room_in

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def server(
    running: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[HubServer]:
    running.reset()
    running.repos[doctor.PROBE[0]] = Repo({doctor.PROBE[1]: b"{}"})
    point_at(running.url, tmp_path / "home" / "hub", monkeypatch)
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    yield running
    huggingface_hub.close_session()


@pytest.fixture(scope="module")
def saved(network: SelaVPR, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    return weights.save(network.to_weights(), folder, with_backbone=True)


# Python and packages


def test_ranges_are_those_of_the_repository() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'requires-python = "{installed.PYTHON}"' in project
    video = re.search(r"^video = \[(.*)\]", project, re.M)
    assert video and re.findall(r'"(.*?)"', video[1]) == list(installed.EXTRAS["video"])
    lines = (ROOT / "requirements-train.txt").read_text(encoding="utf-8").splitlines()
    plain = [line.partition("#")[0].strip() for line in lines]
    # tomli stands in for a part of newer Pythons; it is not what training is about.
    wanted = [line for line in plain if line and not line.startswith(("-r", "tomli"))]
    assert sorted(wanted) == sorted(installed.EXTRAS["training"])


def test_every_package_that_is_imported_is_listed() -> None:
    """What a module imports at its beginning, the app needs; and nothing may come by chance."""
    imported = set()
    for path in (ROOT / "selavpr").glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.partition(".")[0])
    imported -= {"httpx", "safehttpx", "starlette"}  # parts of gradio: whichever it takes
    imported -= {"triton"}  # a part of torch where there are GPUs; done without elsewhere
    # Not packages_distributions(): in Python 3.10 it misses wheels without a list of their tops.
    # Nor files: objects for a hundred thousand lines, which take most of a minute.
    homes: dict[str, set[str]] = {}
    for package in importlib.metadata.distributions():
        lines = (package.read_text("RECORD") or "").splitlines()
        for top in {re.split("[/,]", line, maxsplit=1)[0] for line in lines}:
            homes.setdefault(top.removesuffix(".py"), set()).add(package.name)
    listed = {canonicalize_name(package.name) for package in installed.requirements()}
    listed |= {canonicalize_name(Requirement(text).name) for text in installed.EXTRAS["training"]}
    unlisted = {
        name
        for name in imported - sys.stdlib_module_names - {"selavpr"}
        if not listed & {canonicalize_name(home) for home in homes.get(name, set())}
    }
    assert unlisted == set()


def test_the_tests_have_what_extras_need() -> None:
    lines = (ROOT / "requirements-dev.txt").read_text(encoding="utf-8").splitlines()
    assert {line.partition("#")[0].strip() for line in lines} >= set(installed.EXTRAS["video"])


@pytest.mark.parametrize(
    ("version", "status"),
    [("3.10.0", "ok"), ("3.13.7", "ok"), ("3.12.0rc1", "ok"), ("3.9.18", "bad"), ("3.14.0", "bad")],
)
def test_python(version: str, status: str) -> None:
    found = installed.check_python(version)
    assert found.status == status and version in found.found
    assert bool(found.advice) == (status == "bad")


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Versions of packages that are installed, so to say."""
    have: dict[str, str] = {}

    def version(name: str) -> str:
        if name not in have:
            raise installed.importlib.metadata.PackageNotFoundError(name)
        return have[name]

    monkeypatch.setattr("selavpr.installed.importlib.metadata.version", version)
    return have


@pytest.mark.parametrize(
    ("have", "status"),
    [("2.8.0", "ok"), ("2.15.0+cpu", "ok"), ("2.9.0a0+git12", "ok"), ("2.7.1", "bad"),
     ("3.0.0", "bad"), (None, "bad")],
)  # fmt: skip
def test_packages(versions: dict[str, str], have: str | None, status: str) -> None:
    if have:
        versions["torch"] = have
    (found,) = installed.check_packages([Requirement("torch>=2.8,<3")])
    assert (found.name, found.status) == ("torch", status)
    assert (have or "missing") in found.found
    if status == "bad":
        assert found.advice.startswith('pip install "torch') and ">=2.8" in found.advice


def test_packages_of_other_pythons_are_not_asked_for(versions: dict[str, str]) -> None:
    asked = [Requirement('tomli>=2; python_version < "3"'), Requirement("any-version")]
    assert [finding.name for finding in installed.check_packages(asked)] == ["any-version"]


def test_extras_are_no_more_than_a_note(versions: dict[str, str]) -> None:
    needed = [Requirement("here>=1"), Requirement("away>=2")]
    versions["here"] = "1.5"
    found = installed.check_extra("videos", needed)
    assert found.status == "note" and found.found == "away missing, needs >=2"
    assert found.advice == 'pip install "here>=1" "away>=2"'
    versions["away"] = "2.0"
    assert installed.check_extra("videos", needed) == Finding(
        "for videos", "ok", "here 1.5, away 2.0"
    )


def test_requirements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [package.name for package in installed.requirements()]
    assert {"torch", "gradio", "faiss-cpu", "XStatic-Leaflet"} <= set(names)
    # Installed as a package, without the repository.
    listed = ["torch>=2.8", 'av>=14; extra == "video"']
    monkeypatch.setattr("selavpr.installed.importlib.metadata.requires", lambda _: listed)
    assert [package.name for package in installed.requirements(tmp_path)] == ["torch"]


# The machine


def test_memory_of_a_container_is_its_own(tmp_path: Path) -> None:
    assert free_memory(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 8000 kB\n")
    assert free_memory(tmp_path) == 8000 * 1024
    group = tmp_path / "sys" / "fs" / "cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    assert free_memory(tmp_path) == 8000 * 1024
    (group / "memory.max").write_text("1000000\n")
    assert free_memory(tmp_path) == 1_000_000
    (tmp_path / "proc" / "meminfo").write_text("MemAvailable: lots\n")
    assert free_memory(tmp_path) is None


def test_memory() -> None:
    assert doctor.check_memory(None).status == "ok"
    assert doctor.check_memory(doctor.MEMORY).status == "ok"
    short = doctor.check_memory(doctor.MEMORY - 1)
    assert short.status == "note" and short.advice


def test_looking_for_room_leaves_nothing_behind(tmp_path: Path) -> None:
    room = room_in(tmp_path / "not" / "yet")
    assert room.problem == "" and room.free > 0
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    assert room_in(tmp_path / "file" / "below").problem


def test_folders_that_cannot_be_written() -> None:
    with tempfile.TemporaryDirectory() as base:
        Path(base).chmod(0o555)
        root = os.geteuid() == 0  # root may write anywhere, so be nobody for a moment
        if root:
            os.seteuid(65534)
        try:
            found = doctor.check_cache("Hub cache", Path(base, "hub"))
        finally:
            if root:
                os.seteuid(0)
        assert found.status == "note" and "cannot be written" in found.found
        assert "HF_HOME" in found.advice


def test_full_disks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    free = 10 * doctor.DOWNLOADS
    monkeypatch.setattr("selavpr.machine.shutil.disk_usage", lambda _: usage._replace(free=free))
    assert doctor.check_uploads().status == doctor.check_cache("x", tmp_path).status == "ok"
    free = doctor.UPLOADS - 1
    assert doctor.check_uploads().status == "bad"
    assert "TMPDIR" in doctor.check_uploads().advice
    assert doctor.check_cache("x", tmp_path).status == "note"


def test_no_folder_for_uploads(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.delenv("GRADIO_TEMP_DIR", raising=False)
    monkeypatch.setattr("selavpr.doctor.tempfile.gettempdir", nowhere)
    assert doctor.check_uploads().status == "bad"


# The device


def test_a_cpu_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    state = torch.get_rng_state()
    found = doctor.check_device("cpu", "float32")
    assert found.status == "ok" and "float32" in found.found and "threads" in found.found
    assert torch.equal(torch.get_rng_state(), state)


def test_auto_says_what_it_picks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr("selavpr.model._cpu_has_bf16", lambda: True)
    monkeypatch.setattr("selavpr.doctor.shutil.which", lambda _: None)
    assert doctor.check_device().found.endswith("bfloat16")
    monkeypatch.setattr("selavpr.doctor.shutil.which", lambda _: "/usr/bin/nvidia-smi")
    idle = doctor.check_device()
    assert idle.status == "note" and "idle" in idle.found and "pytorch.org" in idle.advice


@pytest.mark.parametrize(
    ("device", "precision"), [("warp", "auto"), ("cuda:99", "auto"), ("cpu", "float16")]
)
def test_devices_that_are_none(device: str, precision: Any) -> None:
    found = doctor.check_device(device, precision)
    assert found.status == "bad" and found.advice


def test_a_gpu_that_torch_has_no_kernels_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA error: no kernel image is available\nCompile with ...")

    monkeypatch.setattr(SelaVPR, "extract", fails)
    found = doctor.check_device("cpu")
    assert found.status == "bad" and found.found.endswith("no kernel image is available")


def test_a_lent_gpu_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selavpr.doctor.gpu.is_lent", lambda: True)
    monkeypatch.setattr(SelaVPR, "place", lambda *_: pytest.fail("touched"))
    assert "ZeroGPU" in doctor.check_device().found


# Model and cities


def test_a_model_that_is_well(saved: Path, network: SelaVPR) -> None:
    loaded, found = doctor.check_model(str(saved))
    assert loaded is not None and found.status == "ok"
    assert network.fingerprint()[:19] in found.found


def test_a_model_that_is_damaged(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundled = tmp_path / weights.DEFAULT_MODEL
    shutil.copytree(saved, bundled)
    monkeypatch.setattr(weights, "BUNDLED", tmp_path)
    assert doctor.check_model(weights.DEFAULT_MODEL)[1].status == "ok"
    data = (bundled / weights.BACKBONE_FILE).read_bytes()
    (bundled / weights.BACKBONE_FILE).write_bytes(data[:-2] + b"\0\1")
    loaded, found = doctor.check_model(weights.DEFAULT_MODEL)
    assert loaded is None and found.status == "bad" and "fingerprint" in found.found
    assert found.advice == f"git checkout -- {bundled}"
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (bundled / weights.BACKBONE_FILE).write_text(pointer)
    assert "git lfs pull" in doctor.check_model(weights.DEFAULT_MODEL)[1].advice


def test_an_index_that_is_well(built: Path, network: SelaVPR) -> None:
    (found,) = doctor.check_indexes([str(built)], network)
    assert found.status == "ok" and f"{COUNT} photos" in found.found
    (found,) = doctor.check_indexes([str(built)], None)
    assert found.status == "note"


def test_an_index_that_is_damaged(built: Path, network: SelaVPR, tmp_path: Path) -> None:
    folder = tmp_path / "town"
    shutil.copytree(built, folder)
    before = content(folder)
    (folder / "codes.npy").write_bytes(before["codes.npy"][:-1] + b"\7")
    photo = next(name for name in before if name.startswith("images/"))
    (folder / photo).unlink()
    (found,) = doctor.check_indexes([str(folder)], network)
    assert found.status == "bad" and "codes.npy" in found.found and "1 more" in found.found
    (folder / "manifest.json").unlink()
    (found,) = doctor.check_indexes([str(folder)], network)
    assert found.status == "bad"


def test_an_index_of_another_model(built: Path, tiny_reg4_model: SelaVPR) -> None:
    (found,) = doctor.check_indexes([str(built)], tiny_reg4_model)
    assert found.status == "bad" and "another model" in found.found


def test_no_index() -> None:
    (found,) = doctor.check_indexes([], None)
    assert found.status == "bad" and "index build" in found.advice


# The Hub


def test_the_hub_answers(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_hub() == Finding("Hub", "ok", f"{server.url} answers, without a token")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    found = doctor.check_hub()
    assert "with a token" in found.found and "hf_secret" not in str(found)
    # Whatever else huggingface_hub asks for, the file itself is not fetched.
    assert {r.method for r in server.requests if doctor.PROBE[0] in r.path} == {"HEAD"}


@pytest.mark.parametrize(
    ("switch", "value", "words"),
    [
        ("status", 503, "answered 503"),
        ("not_a_hub", True, "does not answer like the Hub"),
        ("repos", {}, "no repository"),
    ],
)
def test_the_hub_is_not_itself(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, switch: str, value: Any, words: str
) -> None:
    monkeypatch.setattr(server, switch, value)
    found = doctor.check_hub()
    assert found.status == "note" and words in found.found and "HF_ENDPOINT" in found.advice


def test_no_hub(server: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    found = doctor.check_hub()
    assert found.status == "note" and "HF_HUB_OFFLINE" in found.found
    assert server.requests == []
    point_at(f"http://127.0.0.1:{closed_port()}", tmp_path, monkeypatch)
    found = doctor.check_hub()
    assert found.status == "note" and "cannot be reached" in found.found


# The command


def test_all_is_well(
    server: HubServer, saved: Path, built: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["doctor", "--model", str(saved), "--index", str(built), "--device", "cpu"]
    assert cli.main(command) == 0
    shown = capsys.readouterr().out
    assert "bad" not in shown and shown.splitlines()[-1].startswith("All is well")
    assert cli.main([*command, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is True
    names = [finding["name"] for finding in answer["findings"]]
    assert {"Python", "torch", "device", "memory", "model", "index town", "Hub"} <= set(names)
    assert len(set(names)) == len(names) == len(shown.splitlines()) - 1 - shown.count(" -> ")


def test_what_is_bad_decides_the_exit_code(
    server: HubServer, built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["doctor", "--model", str(tmp_path / "none"), "--index", str(built)]
    assert cli.main(command) == 1
    shown = capsys.readouterr().out
    assert re.search(r"^bad   model ", shown, re.M) and "1 of " in shown.splitlines()[-1]
    assert cli.main([*command, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False


def test_the_bundled_model_and_cities_are_the_default(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def model(name: str) -> tuple[None, Finding]:
        asked.append(name)
        return None, Finding("model", "ok", "")

    def indexes(names: list[str], _: None) -> list[Finding]:
        asked.append([Path(name).name for name in names])
        return []

    monkeypatch.setattr(doctor, "check_model", model)
    monkeypatch.setattr(doctor, "check_indexes", indexes)
    assert list(doctor.examine())
    bundled = sorted(path.parent.name for path in ROOT.glob("prebuilt_index/*/manifest.json"))
    assert asked == [weights.DEFAULT_MODEL, bundled] and bundled


def test_a_strangers_index_does_not_steer_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finding = Finding("index", "bad", "\x1b[2Jgone", "\x1b]0;title\a")
    monkeypatch.setattr(doctor, "examine", lambda *_, **__: iter([finding]))
    assert cli.main(["doctor"]) == 1
    assert "\x1b" not in capsys.readouterr().out


# Packages without which nothing else of the program can be imported


BLOCKED = """
import runpy, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if BLOCKED:
            raise ModuleNotFoundError(f"No module named {top!r}", name=top)

sys.meta_path.insert(0, Missing())
sys.argv = ["selavpr", *sys.argv[1:]]
runpy.run_module("selavpr", run_name="__main__")
"""


def without(blocked: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command where packages cannot be imported; ``blocked`` is an expression of ``top``."""
    return subprocess.run(
        [sys.executable, "-c", BLOCKED.replace("BLOCKED", blocked), *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_without_torch() -> None:
    done = without("top == 'torch'", "doctor")
    assert (done.returncode, done.stderr) == (1, "")
    first, advice, *rest = done.stdout.splitlines()
    assert first.split()[:2] == ["bad", "torch"] and "No module named 'torch'" in first
    assert "-> " in advice and "pip install -r requirements.txt" in advice
    assert any(line.startswith("ok    gradio ") for line in rest)
    assert "checks failed" in rest[-1]
    answer = json.loads(without("top == 'torch'", "doctor", "--json").stdout)
    assert answer["ok"] is False and answer["findings"][0]["name"] == "torch"


@pytest.mark.parametrize("command", ["doctor", "locate"])
def test_without_any_package(command: str) -> None:
    ours = "top != 'selavpr' and top not in sys.stdlib_module_names"
    done = without(ours, command, "photo.jpg")
    assert "Traceback" not in done.stderr
    if command == "doctor":
        assert done.returncode == 1 and done.stdout.startswith("bad ")
    else:
        assert done.returncode == 2 and done.stdout == ""
        assert "python -m selavpr doctor` says what" in done.stderr


def test_mistakes_of_our_own_are_not_explained_away() -> None:
    done = without("name == 'selavpr.maps'", "doctor")
    assert done.returncode == 1 and "Traceback" in done.stderr

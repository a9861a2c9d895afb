"""Disks that fill up: not simulated ones but a small tmpfs. Mounting it takes root; else skipped.

What was whole before stays whole, the message is one sentence, and with more room the same call
goes on.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from engine_fixtures import MANIFEST, content
from hub_server import HubServer, Repo
from test_hub import point_at, sentence

from selavpr import HubError, IndexFileError, OptionError, SelaVPR, WeightsError, hub, weights
from selavpr.building import build
from selavpr.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from selavpr.index import verify
from selavpr.sources import SourcePhoto

PAGE = 4096


@dataclass(frozen=True)
class Disk:
    """A small disk, and a file that takes up room on it."""

    folder: Path

    def leave(self, free: int) -> None:
        """Have so many bytes free, to the page."""
        ballast = self.folder / "ballast"
        ballast.unlink(missing_ok=True)
        size = shutil.disk_usage(self.folder).free - free
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size // PAGE * PAGE)

    def files(self) -> list[str]:
        """What lies on it."""
        return sorted(path.name for path in self.folder.iterdir() if path.name != "ballast")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a disk takes root")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_an_index(disk: Disk, network: SelaVPR, photos: list[SourcePhoto], tmp_path: Path) -> None:
    """A build is given a little more room each time, so that it fails at one file after another."""
    target = disk.folder / "town"
    build(target, photos[:2], network, MANIFEST)
    old = content(target)
    fresh, _ = build(tmp_path / "fresh", photos, network, MANIFEST)
    failed = 0
    for free in range(PAGE, 4_000_000, 2 * PAGE):
        disk.leave(free)
        try:
            build(target, photos, network, MANIFEST)
        except IndexFileError as error:
            said = str(error)
        else:
            break
        failed += 1
        assert "No space left on device" in said and "goes on from there" in said
        assert "\n" not in said and said.endswith(".")
        assert content(target) == old and verify(target) == []
        assert disk.files() in (["town"], [".town.building", "town"])
    assert failed >= 5
    assert content(target) == content(fresh.folder) and disk.files() == ["town"]


def test_a_model(disk: Disk, network: SelaVPR, tmp_path: Path) -> None:
    source, target = network.to_weights(), disk.folder / "model"
    weights.save(source, target, with_backbone=False)
    old = content(target)
    for free in (0, PAGE, 5 * PAGE, 20 * PAGE):
        disk.leave(free)
        with pytest.raises(WeightsError, match="No space left on device") as error:
            weights.save(source, target, with_backbone=True)
        sentence(error)
        assert content(target) == old and disk.files() == ["model"]
    disk.leave(2_000_000)
    weights.save(source, target, with_backbone=True)
    assert len(content(target)) == 3 and disk.files() == ["model"]


def test_the_checkpoint_of_a_run(disk: Disk) -> None:
    path = disk.folder / "checkpoint.safetensors"
    before = Checkpoint({"a": torch.ones(1000)}, {}, (), {}, {"step": 1})
    after = Checkpoint({"a": torch.zeros(100_000)}, {}, (), {}, {"step": 2})
    write_checkpoint(path, before)
    for free in (0, PAGE, 20 * PAGE):
        disk.leave(free)
        with pytest.raises(OptionError, match="No space left on device") as error:
            write_checkpoint(path, after)
        sentence(error)
        found = read_checkpoint(path)
        assert found.about == {"step": 1} and torch.equal(found.trained["a"], torch.ones(1000))
        assert disk.files() == [path.name]
    disk.leave(1_000_000)
    write_checkpoint(path, after)
    assert read_checkpoint(path).about == {"step": 2}


BIG = np.random.default_rng(0).bytes(600_000)
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def server(disk: Disk, running: HubServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    running.reset()
    running.repos["org/name"] = Repo({"big.bin": BIG})
    point_at(running.url, disk.folder / "hub", monkeypatch)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    yield running
    huggingface_hub.close_session()


def test_a_download_that_does_not_fit(disk: Disk, server: HubServer) -> None:
    disk.leave(100_000)
    with pytest.raises(HubError, match="not enough room") as error:
        hub.fetch("org/name", "big.bin")
    sentence(error)
    assert server.gets("big.bin") == []
    disk.leave(2_000_000)
    assert hub.fetch("org/name", "big.bin").read_bytes() == BIG


def test_a_disk_that_fills_up_during_a_download(
    disk: Disk, server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.leave(200_000)
    with monkeypatch.context() as patch:
        # There was room when it was asked for, and others took it.
        patch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 0, 10**9))
        with pytest.raises(HubError, match="not enough room") as error:
            hub.fetch("org/name", "big.bin")
    sentence(error)
    assert not [path for path in (disk.folder / "hub").rglob("snapshots/*/*")]
    disk.leave(2_000_000)
    server.requests.clear()
    assert hub.fetch("org/name", "big.bin").read_bytes() == BIG
    # What had come is kept, and only the rest is asked for.
    assert [request.range is not None for request in server.gets("big.bin")]

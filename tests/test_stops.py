"""Asked to end (SIGTERM) in the middle of something, and two that do the same thing at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gradio_client import Client, handle_file
from hub_server import HubServer
from test_app import ROOT, environment

HERE = Path(__file__).parent
POSIX = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and signals")


@POSIX
def test_a_build(town: Path, tmp_path: Path) -> None:
    """See stop_builder.py."""
    done = subprocess.run(
        [sys.executable, str(HERE / "stop_builder.py"), str(town), str(tmp_path)],
        capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
             "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)])},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "after SIGTERM" in done.stdout


@POSIX
def test_a_query(running: HubServer, tmp_path: Path) -> None:
    """The app ends at once, and leaves nothing, the upload neither."""
    process = subprocess.Popen(
        [sys.executable, "app.py", "--device", "cpu"], cwd=ROOT, text=True,
        env=environment(running, tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout
    try:
        address = process.stdout.readline().strip()
        photo = next((ROOT / "assets" / "examples").glob("*.jpg"))
        client = Client(address, verbose=False)
        told = client.view_api(return_format="dict", print_info=False)
        city = told["named_endpoints"]["/locate"]["parameters"][1]["parameter_default"]
        job = client.submit(handle_file(photo), city, 20, True, 20, api_name="/locate")
        patience = time.monotonic() + 60
        while job.status().code.name != "PROCESSING" and not job.done():
            assert time.monotonic() < patience
            time.sleep(0.02)
        assert not job.done()
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        assert time.monotonic() - begun < 10
    finally:
        process.kill()
        _, said = process.communicate()
    assert "Traceback" not in said
    left = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*") if path.is_file()}
    assert left == set()

"""The page over drawn towns, in a process of its own: a browser or a client can visit it.

Gradio leaves event loops and sockets to the garbage collector, which would fail the tests of this
process; so the server does not live in it. Run alone it serves until interrupted.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Server:
    """A page being served."""

    address: str
    log_file: Path

    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8")


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[Server]:
    """Serve the page while the context lasts.

    Args:
        folder: for the server's log and uploads.
        *options: ``"--tiles"`` lets the map try OpenStreetMap, ``"--mcp"`` serves language models.
    """
    log_file = folder / "server.log"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(HERE), str(HERE.parent))),
        "GRADIO_TEMP_DIR": str(folder / "uploads"),
    }
    with log_file.open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, __file__, *options],
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
            text=True,
        )
    assert process.stdout
    try:
        # Gradio announces an MCP server in lines of its own.
        line = next((said for said in process.stdout if said.startswith("http")), "").strip()
        assert line, log_file.read_text(encoding="utf-8")
        yield Server(line, log_file)
    finally:
        process.terminate()
        process.wait(timeout=20)
        process.stdout.close()


def main() -> None:
    from fake_recognizer import FakeIndex, FakeRecognizer, drawn_street  # noqa: PLC0415

    from selavpr import ui  # noqa: PLC0415 - only the child loads gradio
    from selavpr.cards import Example  # noqa: PLC0415
    from selavpr.geo import Location  # noqa: PLC0415

    examples = []
    with tempfile.TemporaryDirectory() as folder:
        for i, title in enumerate(("Rain", "Night")):
            path = Path(folder) / f"{title}.jpg"
            drawn_street(100 + i, (640, 480)).save(path)
            examples.append(Example(path, title, truth=Location(60.166, 24.942)))
        other = FakeIndex("other-town", "Other Town", count=6)
        broken = FakeIndex("broken-town", "Broken Town", count=150)
        demo = ui.build_demo(
            {
                "drawn-town": FakeRecognizer(depth=16),
                "other-town": FakeRecognizer(other, calibrated=False, depth=4),
                "broken-town": FakeRecognizer(broken, broken=True, depth=120),
            },
            examples,
            tiles="--tiles" in sys.argv,
        )
    sys.stdout.write(ui.launch(demo, mcp="--mcp" in sys.argv) + "\n")
    sys.stdout.flush()
    demo.block_thread()


if __name__ == "__main__":
    main()

"""The browser app: ``python app.py``, on a laptop or as a Hugging Face Space."""

import argparse
import os
import signal
import sys
from pathlib import Path

from selavpr import bundle, ui
from selavpr.errors import SelaVPRError

HERE = Path(__file__).resolve().parent


def main() -> int:
    """Parse arguments, load, serve; 2 after an error that the user can mend."""
    about = "Serve a page that finds where a photo was taken, and shows why."
    parser = argparse.ArgumentParser(description=about, epilog="More: docs/space.md.")
    add, env = parser.add_argument, os.environ.get
    hub = "or Hub repository org/name[@revision]"
    bundled = "default: all of prebuilt_index"
    add("--model", default=env("SELAVPR_MODEL"), help=f"bundled name, folder {hub} [SELAVPR_MODEL]")
    add("--index", action="append", help=f"folder {hub}; repeatable; {bundled} [SELAVPR_INDEX]")
    add("--device", default="auto", help="cpu, cuda or mps (default: auto, a GPU if there is one)")
    add("--host", default=env("GRADIO_SERVER_NAME"), help="default: this machine; 0.0.0.0: any")
    add("--port", type=int, help="default: the first free one from 7860 [GRADIO_SERVER_PORT]")
    add("--share", action="store_true", help="ask Gradio for a public address, good for a week")
    add("--lang", choices=("en", "zh"), help="language of the page (default: the browser's)")
    add("--mcp", action="store_true", help="also serve the API to language models")
    args = parser.parse_args()
    indexes = args.index or [name for name in env("SELAVPR_INDEX", "").split(os.pathsep) if name]
    try:
        served = bundle.load(HERE / "prebuilt_index", indexes, model=args.model, device=args.device)
        examples = bundle.read_examples(HERE / "assets" / "examples") if served.bundled else []
        with ui.private_uploads() as uploads:
            demo = ui.build_demo(served.recognizers, examples, notes=served.notes)
            address = ui.launch(
                demo, args.host, args.port, share=args.share, language=args.lang, mcp=args.mcp,
                uploads=uploads,
            )  # fmt: skip
            # Stopped as by Ctrl-C, so that the photos of visitors are deleted.
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            print(f"{address}\n{served}", flush=True)
            ui.wait(demo)
    except SelaVPRError as error:
        print(f"app.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

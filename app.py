"""The browser app: ``python app.py``, on a laptop or as a Hugging Face Space."""

import argparse
import os
import sys
from pathlib import Path

from selavpr import bundle, ui
from selavpr.errors import SelaVPRError

HERE = Path(__file__).parent


def main() -> int:
    """Parse arguments, load, launch; 2 after an error that the user can mend."""
    parser = argparse.ArgumentParser(description="Find where a photo was taken, and show why.")
    add, env = parser.add_argument, os.environ.get
    add("--model", default=env("SELAVPR_MODEL"), help="bundled name, folder or Hub repository")
    add("--index", default=env("SELAVPR_INDEX"), help="index folder; default: all bundled ones")
    add("--device", default="auto", help="cpu, cuda or auto")
    add("--host", default=env("GRADIO_SERVER_NAME"), help="address to listen on")
    add("--port", type=int, help="port; default: the first free one from 7860")
    add("--share", action="store_true", help="ask Gradio for a public address")
    add("--lang", choices=("en", "zh"), help="language at start; default: the browser's")
    args = parser.parse_args()
    try:
        folders = [Path(args.index)] if args.index else bundle.find(HERE / "prebuilt_index")
        found = bundle.load(folders, model=args.model, device=args.device)
        demo = ui.build_demo(found.recognizers, found.examples, note=found.note)
    except SelaVPRError as error:
        print(f"app.py: {error}", file=sys.stderr)  # noqa: T201
        return 2
    address = ui.launch(demo, args.host, args.port, share=args.share, language=args.lang)
    print(f"{address}  ({found})", flush=True)  # noqa: T201
    demo.block_thread()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

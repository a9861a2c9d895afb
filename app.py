"""The browser app: ``python app.py``, on a laptop or as a Hugging Face Space."""

import argparse
import os
import sys
from pathlib import Path

from selavpr import bundle, ui
from selavpr.errors import SelaVPRError

HERE = Path(__file__).resolve().parent


def main() -> int:
    """Parse arguments, load, serve; 2 after an error that the user can mend."""
    parser = argparse.ArgumentParser(description="Find where a photo was taken, and show why.")
    add, env = parser.add_argument, os.environ.get
    add("--model", default=env("SELAVPR_MODEL"), help="bundled name, folder or Hub repository")
    add("--index", default=env("SELAVPR_INDEX"), help="index folder; default: all bundled ones")
    add("--device", default="auto", help="auto, cpu or cuda")
    add("--host", default=env("GRADIO_SERVER_NAME"), help="address to listen on")
    add("--port", type=int, help="default: the first free one from 7860")
    add("--share", action="store_true", help="ask Gradio for a public address")
    add("--lang", choices=("en", "zh"), help="default: the browser's")
    args = parser.parse_args()
    try:
        folders = [Path(args.index)] if args.index else bundle.find(HERE / "prebuilt_index")
        served = bundle.load(folders, model=args.model, device=args.device)
        examples = [] if args.index else bundle.read_examples(HERE / "assets" / "examples")
        demo = ui.build_demo(served.recognizers, examples, note=served.note)
    except SelaVPRError as error:
        print(f"app.py: {error}", file=sys.stderr)
        return 2
    address = ui.launch(demo, args.host, args.port, share=args.share, language=args.lang)
    print(f"{address}\n{served}", flush=True)
    return int(demo.block_thread() or 0)


if __name__ == "__main__":
    sys.exit(main())

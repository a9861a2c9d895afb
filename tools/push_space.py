r"""Push the app to a Hugging Face Space, and its weights and city to repositories of their own.

    python tools/push_space.py my-org/place-finder --dry-run
    HF_TOKEN=... python tools/push_space.py my-org/place-finder
    HF_TOKEN=... python tools/push_space.py my-org/place-finder \
        --weights weights/msls my-org/selavpr-msls --index my_city my-org/my-city

What git tracks of the app goes to the Space, nothing else; what is there and no longer here is
deleted. Weights and index pushed along are what the Space then serves: the variables SELAVPR_MODEL
and SELAVPR_INDEX are set on it.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import huggingface_hub

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from selavpr import hub, published, weights  # noqa: E402 - the tool runs from anywhere
from selavpr.errors import SelaVPRError  # noqa: E402

CARD, THUMBNAIL = "README.md", "assets/readme/thumbnail.jpg"

PARTS = (
    "app.py",
    "requirements.txt",
    CARD,
    "LICENSE",
    "selavpr",
    "assets",
    "prebuilt_index",
)
"""What the Space needs; tests, tools and benchmarks stay here."""


def app_files(root: Path = ROOT) -> list[str]:
    """Paths of the tracked files that make up the Space, with forward slashes."""
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--", *PARTS],
        cwd=root,
        capture_output=True,
        check=True,
        text=True,
    )
    return sorted(path for path in tracked.stdout.split("\0") if path and (root / path).is_file())


def check(root: Path, files: list[str]) -> None:
    """Refuse what the Hub would build into a broken Space.

    Raises:
        SelaVPRError: something is missing.
    """
    if missing := [part for part in PARTS if not any(f.split("/")[0] == part for f in files)]:
        raise SelaVPRError(f"git tracks no {', '.join(missing)} here; commit it first.")
    front = (root / CARD).read_text(encoding="utf-8").partition("---\n")[2].partition("---")[0]
    for line in ("sdk: gradio", "sdk_version:", "app_file: app.py"):
        if line not in front:
            raise SelaVPRError(f"README.md does not begin with a block that says {line!r}.")


def stage(root: Path, files: list[str], repo: str, folder: Path) -> None:
    """Copy the files, and name in the card the picture that is shown where the Space is linked.

    The Hub wants its whole address, which only a Space with a name has.
    """
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, folder / name)
    if THUMBNAIL in files:
        card = folder / CARD
        before, line, rest = card.read_text(encoding="utf-8").partition("---\n")
        at = f"{huggingface_hub.constants.ENDPOINT}/spaces/{repo}/resolve/main/{THUMBNAIL}"
        card.write_text(f"{before}{line}thumbnail: {at}\n{rest}", encoding="utf-8")


def push_space(repo: str, root: Path, files: list[str], variables: dict[str, str]) -> str:
    """Create the Space where there is none, and make it hold exactly these files.

    Returns:
        Its address.

    Raises:
        SelaVPRError: no token, no right to write there, or the Hub cannot be reached.
    """
    hub.check_pushable(repo)
    try:
        address = huggingface_hub.create_repo(
            repo, repo_type="space", space_sdk="gradio", exist_ok=True
        )
        for key, value in variables.items():
            huggingface_hub.add_space_variable(repo, key, value)
        with tempfile.TemporaryDirectory() as folder:
            stage(root, files, repo, Path(folder))
            huggingface_hub.upload_folder(
                repo_id=repo,
                repo_type="space",
                folder_path=folder,
                delete_patterns=["*"],
                commit_message=f"Push {commit_of(root)}",
            )
    except Exception as error:  # huggingface_hub raises all sorts when an upload breaks off
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise SelaVPRError(
                f"The Hub does not let this token write to {repo}: check the organisation's name, "
                "and set HF_TOKEN to a token with write access."
            ) from error
        raise SelaVPRError(f"The push to {repo} failed: {error}. Run it again.") from error
    return str(address)


def check_model(folder: Path) -> None:
    """Refuse to push a folder in which anything but a model is.

    Raises:
        SelaVPRError: it is no model, or it holds other files, which everybody could read then.
    """
    names = {path.name for path in folder.iterdir()}
    if not {weights.ADAPTERS_FILE, weights.CONFIG_FILE} <= names:
        raise SelaVPRError(f"There is no model in {folder}.")
    if others := sorted(names - {*weights.MODEL_FILES, "README.md", "LICENSE"}):
        raise SelaVPRError(
            f"{folder} holds {others[0]}, which is no part of a model and would be public; "
            "push a folder with a model alone."
        )


def main(arguments: list[str] | None = None) -> int:
    """Push, or say what would be pushed; 2 after an error that the user can mend."""
    parser = argparse.ArgumentParser(description="Push the app to a Hugging Face Space.")
    parser.add_argument("space", metavar="ORG/NAME")
    for name in ("weights", "index"):
        parser.add_argument(
            f"--{name}", nargs=2, metavar=("FOLDER", "ORG/NAME"), help=f"push {name}, too"
        )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be pushed")
    args = parser.parse_args(arguments)
    extras = [
        (chosen[0], chosen[1], kind, variable)
        for chosen, kind, variable in (
            (args.weights, "model", "SELAVPR_MODEL"),
            (args.index, "dataset", "SELAVPR_INDEX"),
        )
        if chosen
    ]
    try:
        files = app_files()
        check(ROOT, files)
        for folder, repo, kind, _ in extras:
            if not Path(folder).is_dir():
                raise SelaVPRError(f"There is no folder {folder} to push to {repo}.")
            if kind == "model":
                check_model(Path(folder))
            print(f"{folder} -> {kind} {repo}")
        for path in files if args.dry_run else ():
            print(f"{(ROOT / path).stat().st_size:>12,}  {path}")
        total = sum((ROOT / path).stat().st_size for path in files)
        print(f"{len(files)} files, {total / 1e6:.1f} MB -> space {args.space}")
        if args.dry_run:
            return 0
        for folder, repo, kind, _ in extras:
            if kind == "dataset":
                print(published.push(folder, repo))
            else:
                print(hub.push(Path(folder), repo, message="Push"))
        variables = {variable: repo for _, repo, _, variable in extras}
        print(push_space(args.space, ROOT, files, variables))
    except SelaVPRError as error:
        print(f"push_space: {error}", file=sys.stderr)
        return 2
    return 0


def commit_of(root: Path) -> str:
    """The commit that is pushed, with ``-dirty`` behind it when files differ from it."""
    describe = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    done = subprocess.run(describe, cwd=root, capture_output=True, text=True)
    return done.stdout.strip() or "the app"


if __name__ == "__main__":
    sys.exit(main())

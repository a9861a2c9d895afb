"""Check what is written: links and files exist, commands parse, the README names every module.

Run it as ``python tools/check_readme.py``; exit code 1 with a sentence for each problem. Commands
of ``selavpr`` go through its own parser; options of other scripts must stand in their source.
``tests/test_readme.py`` runs what can be run.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from selavpr import cli  # noqa: E402 - the tool runs from anywhere

README = ROOT / "README.md"
OTHERS = ("docs/*.md", "prebuilt_index/*.md", "tools/city/*.md", "assets/weights/*/*.md")


def problems() -> list[str]:
    """One sentence per thing in the documents that is not so."""
    found = _missing_modules(README.read_text(encoding="utf-8"))
    for path in (README, *(path for pattern in OTHERS for path in sorted(ROOT.glob(pattern)))):
        found += check(path.read_text(encoding="utf-8"), path.parent, path.name)
    return found


def check(text: str, folder: Path, name: str) -> list[str]:
    """What is wrong in one document.

    Args:
        text: Markdown.
        folder: that its links start from.
        name: to call it by.
    """
    found = []
    for target in re.findall(r"\]\(([^)#\s]+)\)", text) + re.findall(r'src="([^"]+)"', text):
        if not re.match(r"[a-z]+:", target) and not (folder / target).exists():
            found.append(f"{name} links to {target}, which does not exist.")
    for block in _blocks(text, "python"):
        try:
            compile(block, name, "exec")
        except SyntaxError as error:
            found.append(f"A Python block of {name} does not parse: {error}.")
    for words in commands(text):
        found += [f"{name} runs `{shlex.join(words)}`: {why}" for why in _wrong(words)]
    # In a sentence a command may be named without what it needs.
    for span in re.findall(r"`(python [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        words = shlex.split(span)
        found += [f"{name} names `{span}`: {w}" for w in _wrong(words) if "are required" not in w]
    return found


def commands(text: str) -> Iterator[list[str]]:
    """The commands in a document's shell blocks, word by word, without variables before them."""
    for block in _blocks(text, "", "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|;|\|", line.partition(" #")[0]):
                try:
                    words = shlex.split(part)
                except ValueError:  # a quotation over several lines: nothing of ours
                    continue
                while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                    del words[0]
                if words:
                    yield words


def _blocks(text: str, *languages: str) -> list[str]:
    """The code blocks in one of the languages."""
    # All are read, or the end of one in Python would pass for the start of one in no language.
    found = re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    return [block for language, block in found if language in languages]


def _missing_modules(text: str) -> list[str]:
    modules = {path.stem for path in (ROOT / "selavpr").glob("[!_]*.py")}
    named = set(re.findall(r"`(\w+)`", text))
    return [f"README's table of modules lacks {name}." for name in sorted(modules - named)]


def _wrong(words: list[str]) -> list[str]:
    """Why a command cannot be run as it is written."""
    program, *rest = words
    if program == "pip":
        files = [rest[i + 1] for i, word in enumerate(rest[:-1]) if word == "-r"]
        return [f"{name} does not exist." for name in files if not (ROOT / name).is_file()]
    if Path(program).name not in ("python", "pytest") or not rest:
        return []
    if rest[0] != "-m":
        return _script(ROOT / rest[0], rest) if rest[0].endswith(".py") else []
    if len(rest) < 2 or rest[1].split(".")[0] not in ("selavpr", "tools", "benchmarks"):
        return []
    if rest[1] == "selavpr":
        return _command(rest[2:])
    path = ROOT / rest[1].replace(".", "/")
    return _script(path / "__main__.py" if path.is_dir() else path.with_suffix(".py"), rest)


def _command(words: list[str]) -> list[str]:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parser: argparse.ArgumentParser = cli._parser()
            parser.parse_args(words)
    except SystemExit:
        return [said.getvalue().strip().splitlines()[-1]]
    return []


def _script(path: Path, words: list[str]) -> list[str]:
    if not path.is_file():
        return [f"{path.relative_to(ROOT)} does not exist."]
    source = path.read_text(encoding="utf-8")
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    ours = re.search(r"^from (?:selavpr|tools|benchmarks)\b", source, flags=re.MULTILINE)
    if words[0] != "-m" and path.parent != ROOT and ours and "sys.path" not in source:
        return [f"by its path it finds none of its modules; it is python -m {module}."]
    asked = [word.partition("=")[0] for word in words if word.startswith("--")]
    # An option may be put together, as in f"--{name}".
    made = 'f"--{' in source
    return [f"no {option} there." for option in asked if f'"{option}"' not in source and not made]


def main() -> int:
    """Print the problems; 1 when there are any."""
    found = problems()
    for sentence in found:
        print(sentence, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

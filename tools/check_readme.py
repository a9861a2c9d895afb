"""Check the README: its links and files exist, its commands parse, it names every module.

Run it as ``python tools/check_readme.py``; exit code 1 with a sentence for each problem.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"


def problems() -> list[str]:
    """One sentence per thing in the README that is not so."""
    text = README.read_text(encoding="utf-8")
    found = []
    for target in re.findall(r"\]\(([^)#\s]+)\)", text) + re.findall(r'src="([^"]+)"', text):
        if not re.match(r"[a-z]+:", target) and not (ROOT / target).exists():
            found.append(f"README links to {target}, which does not exist.")
    modules = {path.stem for path in (ROOT / "selavpr").glob("[!_]*.py")}
    named = set(re.findall(r"`(\w+)`", text))
    found += [f"README's table of modules lacks {name}." for name in sorted(modules - named)]
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        try:
            compile(block, "README.md", "exec")
        except SyntaxError as error:
            found.append(f"A Python block of the README does not parse: {error}.")
    for block in re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL):
        for line in block.splitlines():
            found += _command_problems(line.strip())
    return found


def _command_problems(line: str) -> list[str]:
    """Modules, scripts and requirement files that a shell line names must exist."""
    found = []
    for module in re.findall(r"python -m ([\w.]+)", line):
        path = ROOT / module.replace(".", "/")
        own = module.split(".")[0] in ("selavpr", "tools", "benchmarks")
        if own and not (path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()):
            found.append(f"README runs python -m {module}, which does not exist.")
    for script in re.findall(r"(?:python|-r) ([\w./-]+\.(?:py|txt))", line):
        if not (ROOT / script).is_file():
            found.append(f"README uses {script}, which does not exist.")
    match = re.search(r"python -m selavpr ([a-z]+)(?: ([a-z]+))?", line)
    if match:
        words = [w for w in match.groups() if w]
        command = [sys.executable, "-W", "ignore", "-m", "selavpr", *words, "--help"]
        # A second word may be an argument rather than a sub-command: try without it, too.
        tries = [command, [*command[:-2], "--help"]] if len(words) > 1 else [command]
        if all(subprocess.run(c, cwd=ROOT, capture_output=True).returncode for c in tries):
            found.append(f"README runs python -m selavpr {' '.join(words)}, which is unknown.")
    return found


def main() -> int:
    """Print the problems; 1 when there are any."""
    found = problems()
    for sentence in found:
        print(sentence, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

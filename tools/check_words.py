"""Checks spelling with codespell, and what users read for idioms and claims to avoid; `python3 dev.py lint` runs it.

    python -m tools.check_words
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "docs/**/*.md", "web/docs/*.md", "kernels/**/*.md", ".github/**/*.yml")
AVOID = {
    r"told by": "recognised by",
    r"stands? (beside|there)": "is next to, is in",
    r"beside": "next to, compared with, in addition to",
    r"finds? itself": "the node finds it",
    r"(is|are) none (that|of)": "is not",
    r"the pack's own": "name what it is",
    r"(un)?mend(s|ed|ing)?": "fix",
    r"kept aside": "saved",
    r"hangs? on": "depends on",
    r"takes? what": "name what it takes",
    r"anew": "again",
    r"warm-up": "dense start",
    r"seamless(ly)?|effortless(ly)?|leverag(e|es|ing)|utili[sz](e|es|ing)|blazing(ly)?": "say what it does",
    r"never slower|any size|any length|always faster|lossless": "claim only what was measured",
    r"0\.33(\.0)? or (newer|later)": "name the versions that were tested",
}
"""Regular expression -> what to write instead."""


def pages(root: Path = ROOT) -> list[Path]:
    """What users and contributors read in English."""
    return sorted({path for pattern in PAGES for path in root.glob(pattern)})


def idioms(text: str) -> Iterator[tuple[int, str, str]]:
    """(line, what to avoid, what to write instead) of a text; code is left out."""
    for number, line in enumerate(text.splitlines(), 1):
        prose = re.sub(r"`[^`]*`|\]\([^)]*\)", "", line)
        for pattern, instead in AVOID.items():
            for found in re.finditer(rf"\b({pattern})\b", prose, re.IGNORECASE):
                yield number, found[0], instead


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    found = [
        f"{path.relative_to(ROOT)}:{line}: {words!r}: {instead}"
        for path in pages()
        for line, words, instead in idioms(path.read_text(encoding="utf-8"))
    ]
    print("\n".join(found or ["Words are plain"]))
    spelling = subprocess.run([sys.executable, "-m", "codespell_lib", "."], cwd=ROOT).returncode
    return 1 if found or spelling else 0


if __name__ == "__main__":
    sys.exit(main())

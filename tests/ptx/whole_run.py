"""The record of the last run of all shipped kernels: which manifest it was for, and a row for each kernel."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sparse_vdit.kernels.backends import shipped

RECORD = Path(__file__).with_name("whole_run.json")
COMMAND = "python3 dev.py test -m slow tests/kernels/test_ptx_whole.py"


@dataclass
class Row:
    """What the cases of one kernel gave.

    Attributes:
        files: shipped files with these instructions.
        cases: how many ran.
        error: the largest relative L2 distance to the truth. That of a kernel that quantizes is of the attention it
            is for; that of kernels that choose tiles is the part that torch chooses otherwise.
        allowed: the distance that the tests allow.
        seconds: it took.
        instructions: of a warp for each key tile, by class.
    """

    files: list[str]
    cases: int = 0
    error: float = 0.0
    allowed: float = 0.0
    seconds: float = 0.0
    instructions: dict[str, float] = field(default_factory=dict)

    def add(self, error: float, allowed: float, seconds: float) -> None:
        """Count a case."""
        self.cases, self.seconds = self.cases + 1, round(self.seconds + seconds, 1)
        self.error, self.allowed = max(self.error, float(f"{error:.2e}")), max(self.allowed, allowed)


def manifest_digest() -> str:
    """sha256 of what the manifest says of the kernels and of every file; a comment in the sources does not count."""
    manifest = shipped.manifest()
    text = json.dumps({name: manifest[name] for name in ("kernels", "files")}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def write(rows: list[Row], record: Path = RECORD) -> None:
    """Write the record, a line for each row."""
    lines = ",\n".join(json.dumps(asdict(row)) for row in rows)
    record.write_text(f'{{"manifest": "{manifest_digest()}", "command": "{COMMAND}", "rows": [\n{lines}\n]}}\n')


def read() -> dict:
    """The record, rows as dictionaries."""
    return json.loads(RECORD.read_text(encoding="utf-8"))

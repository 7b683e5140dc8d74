"""Builds the plans that ship, `plans/<family>/*.json`, from public measurements, `tools/measurements/`.

    python -m tools.build_plans             build all
    python -m tools.build_plans --check     build all again and compare with what ships

The same on every machine and day.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from sparse_vdit.plans.plan.files import plan_bytes
from sparse_vdit.plans.plan.plan import Plan
from sparse_vdit.plans.plan.presets import PRESETS
from sparse_vdit.plans.plan.published import Published

from tools.plans.cards import cogvideox_2b, unmeasured
from tools.plans.models import COGVIDEOX_2B, HUNYUAN_T2V, PRIORS, UNMEASURED
from tools.plans.priors import prior
from tools.plans.windows import windows

ROOT = Path(__file__).resolve().parent.parent
ANY = "calibrate"
"""Stands in the place of the preset in the names of plans for all presets."""


def shipped_files() -> dict[Path, bytes]:
    """Content of every shipped file, by its path."""
    return {file_of(published, preset): plan_bytes(plan) for published, preset, plan in _plans()}


def file_of(published: Published, preset: str) -> Path:
    """Where the plan of a model and preset lies."""
    return ROOT / "plans" / published.family / f"{published.file}.{preset}.json"


def _plans() -> Iterator[tuple[Published, str, Plan]]:
    for preset in PRESETS:
        yield HUNYUAN_T2V, preset, windows(preset)
        for published in PRIORS:
            yield published, preset, prior(published, preset)
    yield COGVIDEOX_2B, ANY, cogvideox_2b()
    for published in UNMEASURED:
        yield published, ANY, unmeasured(published)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, fail where a file differs")
    check = parser.parse_args().check
    files = shipped_files()
    others = {path for path in (ROOT / "plans").glob("*/*.json") if path not in files}
    for path, content in files.items():
        if check:
            others |= set() if path.is_file() and path.read_bytes() == content else {path}
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
    wrong = sorted(path.relative_to(ROOT).as_posix() for path in others)
    if wrong:
        sys.exit(f"not as built: {', '.join(wrong)}")
    print(f"{len(files)} plans, {sum(map(len, files.values())) / 1000:.0f} KB, {'as' if check else ''} built")


if __name__ == "__main__":
    main()

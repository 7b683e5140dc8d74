"""The table of models, and all tables of README.md and docs."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from comfyui.family_cases import SPARSE
from load_pack import ROOT
from sparse_vdit.nodes.host import models
from sparse_vdit.plans.plan.published import PUBLISHED

from benchmarks.report.models_table import FAMILIES, numbers
from benchmarks.report.tables import TABLES, filled


@pytest.mark.parametrize("page", [page for page in TABLES if not page.startswith("benchmarks/")])
def test_the_tables_are_current(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert filled(text, page, TABLES[page]) == text, "run python -m benchmarks.report.tables"
    assert set(re.findall(r"<!-- table: (\w+) -->", text)) == TABLES[page].keys()


def test_every_family_and_every_case_is_in_it() -> None:
    assert [family.name for family in FAMILIES] == [family.name for family in models.FAMILIES] != []
    rows = [row for family in FAMILIES for row in family.models]
    assert {name for row in rows for name in row.tested} == {case.name for case in SPARSE}


def test_every_published_model_is_in_it() -> None:
    """By its layers and heads, of which those of two kinds are added up."""
    shown = {
        (family.name, (sum(map(int, layers.split(" + "))), int(heads), int(head_dim)))
        for family in FAMILIES
        for layers, heads, head_dim in map(numbers, family.models)
        if "/" not in layers
    }
    assert {(model.family, model.shape) for model in PUBLISHED} <= shown


def test_it_is_made_without_a_comfyui() -> None:
    code = "import sys, benchmarks.report.models_table as t; t.models_table(); assert 'comfy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)

"""Help pages in a real Chromium, as ComfyUI's own panel shows them."""

from __future__ import annotations

import pytest
from comfyui.chromium import browse
from comfyui.installation import ROOT
from comfyui.server import Server

pytest_plugins = ["comfyui.fixtures"]
pytestmark = pytest.mark.comfyui

PAGES = ROOT / "web" / "docs"
KINDS = sorted(page.stem for page in PAGES.glob("*.md"))
WIDTH = 262  # pixels of the panel, as ComfyUI opens it
TALLEST = 3000  # pixels


def title(kind: str, locale: str) -> str:
    """Of the page that a language gets."""
    page = PAGES / f"{kind}.md" if locale == "en" else PAGES / kind / f"{locale}.md"
    return page.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")


@pytest.mark.parametrize("locale", ["en", pytest.param("zh", marks=pytest.mark.slow)])
def test_help_is_short_and_fits_the_panel(served: Server, locale: str) -> None:
    found = browse(served, "read_help", vue=True, kinds=KINDS, locale=locale, width=WIDTH)
    # the frontend asks for a page of the language first, and takes the English one where that is missing
    assert [error for error in found["errors"] if "/docs/" not in error] == []
    pages = found["pages"]
    print({kind: page["height"] for kind, page in pages.items()})
    assert {kind: page["title"] for kind, page in pages.items()} == {kind: title(kind, locale) for kind in KINDS}
    assert {kind: page["across"] for kind, page in pages.items()} == dict.fromkeys(KINDS, WIDTH)
    for kind, page in pages.items():
        assert 300 < page["height"] <= TALLEST, kind
        assert page["tables"] == 0, kind
        assert all(link["target"] == "_blank" and "/docs/" in link["href"] for link in page["links"]), kind

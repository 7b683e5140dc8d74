"""Translations and help: every node, input and output of the pack is in them, and nothing else is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from comfyui.installation import ROOT
from comfyui.server import Server

pytest_plugins = ["comfyui.fixtures"]
LANGUAGES = ["en", "zh"]
PAGES = ROOT / "web" / "docs"


def translations(language: str) -> dict:
    return json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))


def names(description: dict, before: str = "") -> Iterator[tuple[str, str]]:
    """All inputs as the frontend looks them up, and what they are called."""
    for kind in ("required", "optional"):
        for name, value in description.get(kind, {}).items():
            options = value[1] if len(value) > 1 else {}
            yield before + name, options.get("display_name") or name
            for option in options.get("options", ()):
                if isinstance(option, dict):
                    yield from names(option["inputs"], f"{before}{name}_")


@pytest.fixture(scope="module")
def nodes(server: Server) -> dict:
    return {name: described for name, described in server.get("/object_info").items() if name.startswith("SparseVDiT")}


@pytest.mark.comfyui
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_node_input_and_output_is_translated(nodes: dict, language: str) -> None:
    found = translations(language)
    assert found.keys() == nodes.keys()
    for name, described in nodes.items():
        assert found[name]["inputs"].keys() == dict(names(described["input"])).keys(), name
        assert list(found[name]["outputs"]) == [str(number) for number in range(len(described["output"]))], name


@pytest.mark.comfyui
def test_english_names_are_the_nodes_own(nodes: dict) -> None:
    """And tooltips are the nodes' own alone, so that no second text grows old."""
    for name, found in translations("en").items():
        assert found["display_name"] == nodes[name]["display_name"]
        assert found.keys() == {"display_name", "inputs", "outputs"}
        called = {key: entry["name"] for key, entry in found["inputs"].items()}
        assert called == dict(names(nodes[name]["input"])), name
        assert [entry["name"] for entry in found["outputs"].values()] == nodes[name]["output_name"]
        for key, entry in (*found["inputs"].items(), *found["outputs"].items()):
            assert entry.keys() == {"name"}, f"{name}.{key}"


def texts(found: object) -> Iterator[str]:
    for value in found.values():
        yield from [value] if isinstance(value, str) else texts(value)


@pytest.mark.parametrize("language", LANGUAGES)
def test_texts_are_none_that_the_frontend_would_read_as_commands(language: str) -> None:
    for text in texts(translations(language)):
        assert text.strip() == text != ""
        assert not re.search(r"[{}@|]", text), text


def test_chinese_has_a_tooltip_for_everything_in_chinese() -> None:
    for name, found in translations("zh").items():
        assert re.search(r"[\u4e00-\u9fff]", found["description"]), name
        for key, entry in (*found["inputs"].items(), *found["outputs"].items()):
            assert re.search(r"[\u4e00-\u9fff]", entry["tooltip"]), f"{name}.{key}"


@pytest.mark.comfyui
def test_every_node_has_a_page_in_each_language_that_names_each_input(nodes: dict) -> None:
    assert {page.stem for page in PAGES.glob("*.md")} == nodes.keys()
    for name, described in nodes.items():
        wanted = {key for kind in ("required", "optional") for key in described["input"].get(kind, {})}
        for page in (PAGES / f"{name}.md", PAGES / name / "zh.md"):
            text = page.read_text(encoding="utf-8")
            items = re.findall(r"^- (\*\*.*)$", text, re.MULTILINE)
            told = {word for item in items for word in re.findall(r"\*\*([a-z_]+)\*\*", item)}
            assert wanted <= told, f"{page}: {wanted - told}"


def test_pages_of_both_languages_have_the_same_parts() -> None:
    for page in PAGES.glob("*.md"):
        other = (PAGES / page.stem / "zh.md").read_text(encoding="utf-8")
        shapes = [re.findall(r"^(#+|-) ", text, re.MULTILINE) for text in (page.read_text(encoding="utf-8"), other)]
        assert shapes[0] == shapes[1], page.name

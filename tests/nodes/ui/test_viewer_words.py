"""Texts of the plan viewer: every one is in both languages, is used, and is filled in alike."""

from __future__ import annotations

import re

import pytest
from comfyui.installation import ROOT

WEB = ROOT / "web"
WORDS = WEB / "viewer" / "words.js"


def table(language: str) -> dict[str, str]:
    """Texts by their keys."""
    text = WORDS.read_text(encoding="utf-8")
    block = re.search(rf"^const {language} = {{\n(.*?)^}};", text, re.DOTALL | re.MULTILINE)[1]
    entries = re.split(r"^  (\w+):", block, flags=re.MULTILINE)[1:]
    texts = ("".join(re.findall(r'"([^"]*)"', value)) for value in entries[1::2])
    return dict(zip(entries[::2], texts, strict=True))


def test_both_languages_have_every_text() -> None:
    english, chinese = table("en"), table("zh")
    assert len(english) > 40
    assert list(english) == list(chinese)
    for key in english:
        assert english[key], key
        assert re.search("[\u4e00-\u9fff]", chinese[key]), key
        assert sorted(re.findall(r"{\w+}", english[key])) == sorted(re.findall(r"{\w+}", chinese[key])), key


def test_every_text_is_used_and_every_used_one_is_there() -> None:
    code = "".join(path.read_text() for path in WEB.rglob("*.js") if path != WORDS)
    keys = set(table("en"))
    assert {key for key in keys if f'"{key}"' not in code} == set()
    assert set(re.findall(r'say\("(\w+)"', code)) <= keys


@pytest.mark.parametrize("attribute", ["textContent", "ariaLabel", "ariaRoleDescription", "title", "alt"])
def test_no_text_stands_elsewhere(attribute: str) -> None:
    """Where the page is given words, they come from the table."""
    for path in WEB.rglob("*.js"):
        assert not re.search(rf'\b{attribute}(:| =) "[A-Za-z]', path.read_text()), path.name

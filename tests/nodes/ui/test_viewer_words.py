"""Texts of the plan viewer: every one is in both languages, is used, and is filled in alike."""

from __future__ import annotations

import json
import shutil
import string
import subprocess
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from load_pack import ROOT

WEB = ROOT / "web"
WORDS = WEB / "viewer" / "words.js"
CODE = {path.name: path.read_text(encoding="utf-8") for path in WEB.rglob("*.js") if path != WORDS}
NODE = shutil.which("node")

ASK = """
const words = await import(process.argv[1]);
const asked = JSON.parse(process.argv[2]);
console.log(JSON.stringify({
  ...words.tables,
  said: asked.map(([language, key, values]) => { words.speak(language); return words.say(key, values); }),
}));
"""

pytestmark = pytest.mark.skipif(NODE is None, reason="no node")


def node(asked: list[tuple] = ()) -> dict:
    """What the module holds in each language, and says when it is asked (language, key, values)."""
    module = WORDS.read_text(encoding="utf-8") + "\nexport const tables = { en, zh };\n"
    command = [NODE, "--input-type=module", "-e", ASK, f"data:text/javascript,{quote(module)}", json.dumps(asked)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)


@pytest.fixture(scope="module")
def texts() -> dict[str, dict[str, str]]:
    """Texts by language and key."""
    return {language: table for language, table in node().items() if language != "said"}


def blanks(text: str) -> list[str]:
    """Names of what is filled into a text."""
    return sorted(name for _, name, _, _ in string.Formatter().parse(text) if name)


def after(code: str, marker: str) -> Iterator[str]:
    """What follows a marker, at each place that it is at."""
    yield from code.split(marker)[1:]


def test_both_languages_have_every_text(texts: dict) -> None:
    english, chinese = texts["en"], texts["zh"]
    assert len(english) > 40
    assert list(english) == list(chinese)
    for key in english:
        assert english[key], key
        assert any("\u4e00" <= sign <= "\u9fff" for sign in chinese[key]), key
        assert blanks(english[key]) == blanks(chinese[key]), key


def test_every_text_is_used_and_every_used_one_is_there(texts: dict) -> None:
    code = "".join(CODE.values())
    assert {key for key in texts["en"] if f'"{key}"' not in code} == set()
    assert {rest.partition('"')[0] for rest in after(code, 'say("')} <= texts["en"].keys()


def test_texts_are_said_in_the_chosen_language_and_filled_in(texts: dict) -> None:
    key = next(key for key, text in texts["en"].items() if blanks(text) == ["density"])
    filled = {language: texts[language][key].format(density="0.25") for language in ("en", "zh")}
    said = node([(language, key, {"density": "0.25"}) for language in ("en", "zh", "fr", None)])["said"]
    assert said == [filled["en"], filled["zh"], filled["en"], filled["en"]]


@pytest.mark.parametrize("attribute", ["textContent", "ariaLabel", "ariaRoleDescription", "title", "alt"])
def test_no_text_stands_elsewhere(attribute: str) -> None:
    """Where the page is given words, they come from the table."""
    for name, code in CODE.items():
        for marker in (f'{attribute}: "', f'{attribute} = "'):
            assert not [rest for rest in after(code, marker) if rest[:1].isalpha()], name

"""What a registry and ComfyUI Manager read of the pack without running it."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from load_pack import ROOT

NODES = {
    "SparseVDiTPatchModel",
    "SparseVDiTPatchRaylight",
    "SparseVDiTLoadPlan",
    "SparseVDiTSavePlan",
    "SparseVDiTProfileHeads",
    "SparseVDiTSearchPlan",
    "SparseVDiTPreviewPlan",
    "SparseVDiTCompareVideos",
}
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from (ROOT / folder).rglob("*.py")


def node_classes(path: Path) -> Iterator[ast.ClassDef]:
    """Classes that inherit io.ComfyNode directly, as a scan of the source sees them."""
    for item in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(item, ast.ClassDef) and any(ast.unparse(base) == "io.ComfyNode" for base in item.bases):
            yield item


def literal_ids(item: ast.ClassDef) -> list[str]:
    """Literal `node_id`s of the schemas in a class."""
    return [
        word.value.value
        for call in ast.walk(item)
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "io.Schema"
        for word in call.keywords
        if word.arg == "node_id" and isinstance(word.value, ast.Constant)
    ]


def test_a_scan_finds_every_node_once_by_a_literal_id() -> None:
    found = [literal_ids(item) for path in sources("nodes") for item in node_classes(path)]
    assert all(len(ids) == 1 for ids in found)
    assert sorted(ids[0] for ids in found) == sorted(NODES)


def test_a_scan_finds_no_node_among_tests_and_tools() -> None:
    for path in sources("tests", "tools", "benchmarks"):
        text = path.read_text(encoding="utf-8")
        assert not list(node_classes(path)), path
        assert not re.search(r"^\s*NODE_CLASS_MAPPINGS\s*(?:=|\.update|\[)", text, re.MULTILINE), path


@pytest.mark.parametrize("field", ["name", "version", "description", "readme", "license", "requires-python"])
def test_the_project_says_what_a_registry_asks_for(field: str) -> None:
    assert re.search(rf"^{field} = \S", PROJECT, re.MULTILINE)


def test_the_name_and_version_are_such_as_a_registry_takes() -> None:
    name = re.search(r'^name = "([^"]+)"', PROJECT, re.MULTILINE)[1]
    assert re.fullmatch(r"[a-z][a-z0-9-]{0,99}", name)
    assert "comfyui" not in name
    assert re.search(r'^version = "\d+\.\d+\.\d+"', PROJECT, re.MULTILINE)
    assert re.search(r'^requires-comfyui = ">=\d+\.\d+\.\d+"', PROJECT, re.MULTILINE)


def test_the_changelog_tells_of_this_version() -> None:
    version = re.search(r'^version = "([^"]+)"', PROJECT, re.MULTILINE)[1]
    assert re.search(rf"^## {re.escape(version)}\b", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)


def test_what_is_published_has_no_tests_and_all_that_users_see() -> None:
    left_out = (ROOT / ".comfyignore").read_text(encoding="utf-8").split()
    assert {"tests/", "tools/", "benchmarks/*", ".github/"} <= set(left_out)
    for needed in ("web", "locales", "example_workflows", "nodes", "plans", "kernels", "LICENSE", "README.md"):
        assert (ROOT / needed).exists(), needed
        assert not any(entry.rstrip("/") == needed for entry in left_out), needed


PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("[CR]*.md", "docs/**/*.md", "web/docs/**/*.md", "kernels/**/*.md", "benchmarks/README.md")
    for path in ROOT.glob(pattern)
)
REPOSITORY = "https://github.com/OWNER/REPO"  # until the owner has filled it in
HERE = re.search(r'^Repository = "(.+)"$', PROJECT, re.MULTILINE)[1] + "/blob/main/"
"""Of links in help pages, which have to be whole addresses."""


def links(page: str) -> Iterator[tuple[Path, str]]:
    """(path, heading) of every link to a file of the repository."""
    text = re.sub(r"```.*?```|`[^`]*`", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    for address in re.findall(r"\]\(([^)]+)\)|src=\"([^\"]+)\"", text):
        link, _, heading = (address[0] or address[1]).partition("#")
        if link.startswith(HERE):
            yield ROOT / link.removeprefix(HERE), heading
        elif ":" not in link:
            yield ((ROOT / page).parent / link).resolve() if link else ROOT / page, heading


def headings(page: Path) -> set[str]:
    """Anchors of a page, as GitHub makes them."""
    found = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for path, heading in links(page):
        assert path.exists(), path
        assert not heading or heading in headings(path), f"{path.name}#{heading}"


@pytest.mark.parametrize("page", [page for page in PAGES if page != "docs/publishing.md"])
def test_published_pages_link_to_what_is_published(page: str) -> None:
    """By git, which reads such a file as the registry's tool does."""
    paths = [path for path, _ in links(page)]
    asked = "\n".join([page, *(path.relative_to(ROOT).as_posix() for path in paths)])
    command = ["git", "-c", f"core.excludesFile={ROOT / '.comfyignore'}", "check-ignore", "--no-index", "--stdin"]
    told = subprocess.run(command, cwd=ROOT, input=asked, capture_output=True, text=True)
    if told.returncode == 128:
        pytest.skip(f"no git repository: {told.stderr}")
    assert (told.stdout, told.returncode) == ("", 1)


@pytest.mark.parametrize(
    ("pattern", "most"), [("README.md", 120), ("web/docs/*.md", 60), ("web/docs/*/*.md", 60), ("docs/**/*.md", 200)]
)
def test_pages_are_short(pattern: str, most: int) -> None:
    for page in ROOT.glob(pattern):
        assert len(page.read_text(encoding="utf-8").splitlines()) <= most, page


def test_every_page_of_docs_is_reached_from_the_readme() -> None:
    seen, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        waiting += [path for path, _ in links(page.relative_to(ROOT).as_posix())]
    assert {*ROOT.glob("docs/*/*.md"), *ROOT.glob("web/docs/*.md")} <= seen


def test_the_owners_placeholders_are_all_there_or_all_filled_in() -> None:
    command = ["git", "grep", "-lF", "OWNER/REPO", "--", ".", ":!docs/publishing.md", ":!.github", ":!tests"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if found.returncode > 1:
        pytest.skip(f"no git repository: {found.stderr}")
    left = found.stdout.split()
    publisher = re.search(r'^PublisherId = "(.*)"$', PROJECT, re.MULTILINE)[1]
    if HERE.startswith(REPOSITORY):
        pytest.skip(f"NOT READY TO PUBLISH, see docs/publishing.md: OWNER/REPO is a placeholder in {', '.join(left)}")
    assert left == []
    assert publisher, "PublisherId in pyproject.toml is empty, see docs/publishing.md"


def test_the_pack_runs_no_code_out_of_texts_and_installs_nothing() -> None:
    """What the registry refuses: eval and exec, and pip in a subprocess."""
    for path in sources("nodes", "plans", "kernels"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for call in (item for item in ast.walk(tree) if isinstance(item, ast.Call)):
            assert ast.unparse(call.func) not in ("eval", "exec", "os.system"), path
            assert not (ast.unparse(call.func).startswith("subprocess.") and "pip" in ast.unparse(call)), path


def test_issue_templates_ask_for_the_report_line() -> None:
    templates = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    assert templates
    for template in templates:
        wanted = "label: report.json" if template.stem == "gpu_report" else "label: The report line"
        assert wanted in template.read_text(encoding="utf-8"), template

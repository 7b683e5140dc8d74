"""The house's rules: nodes -> plans -> kernels, within plans and nodes/host each part uses those before it alone, no
files import each other in a circle, ComfyUI under nodes/ alone, and a pack that works in any folder."""

import ast
import graphlib
import shutil
import subprocess
import sys

import pytest
from load_pack import ROOT

LAYERS = ("kernels", "plans", "nodes")
PARTS = {
    ("plans",): ("plan", "profile", "search", "view"),
    ("nodes", "host"): (
        *("installed", "core", "models", "session", "hooks", "library", "policies", "ui", "select", "raylight"),
    ),
}
"""Folders and files in a folder, each of which uses those before it."""
MAY_USE = {
    "kernels": {"kernels"},
    "plans": {"plans", "kernels"},
    "nodes": {"nodes", "plans", "kernels"},
    "": {"nodes"},  # the door
}
LIBRARIES = {
    "kernels": {"torch", "triton"},
    "plans": {"torch", "numpy", "safetensors", "PIL"},
    "": set(),
}
OF_COMFYUI = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "server", "execution"}
OWN = {"kernels", "plans", "sparse_vdit"}  # `nodes` by itself is ComfyUI's own module


def layer_of(path):
    """The layer that a file (relative to the pack) is part of; the door is ''. None for tests and tools."""
    top = path.split("/")[0] if "/" in path else ""
    return top if top in LAYERS or path == "__init__.py" else None


def relative_targets(path, node):
    """Paths in the pack, as tuples of names, that a relative import reaches for; None above the pack."""
    package = path.split("/")[:-1]
    if node.level - 1 > len(package):
        return None
    base = tuple(package[: len(package) - (node.level - 1)])
    base += tuple(node.module.split(".")) if node.module else ()
    return [base] if node.module else [(*base, alias.name) for alias in node.names]


def violations(path, source):
    """What a file's imports break, in words; `path` is relative to the pack, with slashes."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            found += _relative(path, node)
        elif isinstance(node, ast.ImportFrom):
            found += _absolute(path, node.module)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                found += _absolute(path, alias.name)
    return found


def _relative(path, node):
    layer = layer_of(path)
    targets = relative_targets(path, node)
    if targets is None:
        return [f"{path}: imports from above the pack"]
    if layer is None:
        return [f"{path}: imports the pack relatively, use sparse_vdit"] if {t[0] for t in targets} & {*LAYERS} else []
    return [f"{path}: imports {'.'.join(t)}" for t in targets if t[0] not in MAY_USE[layer] or _upwards(path, t)]


def _upwards(path, target):
    """Whether a part of a folder imports a later one, or what lies around the folder in its layer."""
    source = tuple(path.removesuffix(".py").split("/"))
    for folder, parts in PARTS.items():
        depth = len(folder)
        if source[:depth] != folder or source[depth] not in parts or target[0] != folder[0]:
            continue
        allowed = parts[: parts.index(source[depth]) + 1]
        if target[:depth] != folder or target[depth : depth + 1] == () or target[depth] not in allowed:
            return True
    return False


def _absolute(path, name):
    layer, top = layer_of(path), name.split(".")[0]
    if layer is None:
        return [f"{path}: imports {name} absolutely"] if top in ("kernels", "plans") else []
    if top in OWN:
        return [f"{path}: imports its own pack absolutely, {name}"]
    if layer == "nodes" or top in sys.stdlib_module_names:
        return []
    if top in OF_COMFYUI or top.startswith("comfy") or top == "nodes":
        return [f"{path}: imports {name} of ComfyUI outside nodes/"]
    return [] if top in LIBRARIES[layer] else [f"{path}: imports {name}, which {layer or 'the door'} must not need"]


def python_files():
    """Of the project: what lies beside its folders, as environments do, is none of its code."""
    for folder in ("", *LAYERS, "benchmarks", "tests", "tools"):
        for path in sorted((ROOT / folder).glob("*.py" if not folder else "**/*.py")):
            yield path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", [*python_files()])
def test_imports_run_one_way(path):
    assert violations(path, (ROOT / path).read_text(encoding="utf-8")) == []


def test_all_layers_are_checked():
    files = [*python_files()]
    assert {*LAYERS, "", None} == {layer_of(path) for path in files}
    for folder, parts in PARTS.items():
        inside = [path.removesuffix(".py").split("/") for path in files if path.startswith("/".join(folder) + "/")]
        assert {path[len(folder)] for path in inside} - {"__init__"} == {*parts}


def imports_within(files):
    """By file of the pack, the files of it that it imports relatively; of a package, its own file."""
    found = {}
    for path, source in files.items():
        found[path] = set()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and node.level:
                found[path] |= {file for file in files if _is_reached(path, node, file)}
    return found


def _is_reached(path, node, file):
    module = tuple(file.removesuffix(".py").removesuffix("/__init__").split("/"))
    for target in relative_targets(path, node) or ():
        if node.module and module in ((*target, alias.name) for alias in node.names):
            return True  # a module of the package that is named
        if module == target and file != path:
            return True
    return False


def circle(files):
    """Files that import each other in a circle, empty where none do."""
    try:
        graphlib.TopologicalSorter(imports_within(files)).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def test_no_files_import_each_other_in_a_circle():
    paths = [path for path in python_files() if layer_of(path) in LAYERS]
    assert circle({path: (ROOT / path).read_text(encoding="utf-8") for path in paths}) == []


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"nodes/a.py": "from .b import x", "nodes/b.py": "def f():\n    from .a import y"}, True),
        ({"nodes/a.py": "from . import b", "nodes/b.py": "from .c.d import z", "nodes/c/d.py": "from .. import a"},
         True),
        ({"plans/c/__init__.py": "from .d import z", "plans/c/d.py": "from ..c import y"}, True),
        ({"nodes/a.py": "from .c import d", "nodes/c/d.py": "from ..a import y"}, True),
        ({"nodes/a.py": "from .b import x\nfrom .c import y", "nodes/b.py": "from .c import z", "nodes/c.py": ""},
         False),
    ],
)  # fmt: skip
def test_circles_are_found(files, found):
    assert bool(circle(files)) == found


def test_folders_of_the_pack_are_packages():
    """In a clone too, that is with files that git knows."""
    paths = {path for path in python_files() if layer_of(path) in LAYERS}
    assert {path.rpartition("/")[0] + "/__init__.py" for path in paths} <= paths
    told = subprocess.run(["git", "check-ignore", "--stdin"], cwd=ROOT, input="\n".join(sorted(paths)),
                          capture_output=True, text=True)  # fmt: skip
    if told.returncode == 128:
        pytest.skip(f"no git repository: {told.stderr}")
    assert (told.stdout, told.returncode) == ("", 1)  # that it ignores none of them


@pytest.mark.parametrize(
    "path, source",
    [
        ("kernels/a.py", "from ..plans.plan import Plan"),
        ("kernels/a.py", "from .. import plans"),
        ("kernels/patterns/a.py", "from ... import nodes"),
        ("kernels/patterns/a.py", "from ....x import y"),
        ("kernels/a.py", "from .. import __init__"),
        ("kernels/a.py", "import numpy as np"),
        ("kernels/a.py", "def f():\n    import comfy.model_management"),
        ("kernels/a.py", "import kernels.grid"),
        ("kernels/a.py", "from sparse_vdit.kernels.grid import TokenGrid"),
        ("plans/a.py", "from ..nodes.host import x"),
        ("plans/plan/a.py", "from ..profile.profile import Profile"),
        ("plans/profile/a.py", "from .. import search"),
        ("plans/search/a.py", "from ..view import drawing"),
        ("plans/search/a.py", "from ...plans import view"),
        ("plans/a.py", "import folder_paths"),
        ("plans/a.py", "from comfy_api.latest import io"),
        ("plans/a.py", "from server import PromptServer"),
        ("plans/a.py", "import nodes"),
        ("plans/a.py", "import requests"),
        ("plans/a.py", "try:\n    import triton\nexcept ImportError:\n    pass"),
        ("nodes/host/core/a.py", "from ..session.run import Run"),
        ("nodes/host/session/a.py", "from ..hooks.install import install"),
        ("nodes/host/session/a.py", "from .. import ui"),
        ("nodes/host/policies/a.py", "from ..select import select_policy"),
        ("nodes/host/policies/a.py", "from ...host.ui import report"),
        ("nodes/host/library/a.py", "def f():\n    from ..policies import plan"),
        ("nodes/host/models/a.py", "from ... import host"),
        ("nodes/host/ui/a.py", "from ...patch_model import PatchModel"),
        ("nodes/host/select.py", "from ..sockets import CATEGORY"),
        ("nodes/a.py", "from plans.plan import Plan"),
        ("nodes/a.py", "from ...other_pack import x"),
        ("__init__.py", "from .kernels import grid"),
        ("__init__.py", "import torch"),
        ("__init__.py", "import comfy"),
        ("tests/test_a.py", "from kernels.grid import TokenGrid"),
        ("benchmarks/a.py", "from ..kernels.grid import TokenGrid"),
        ("tools/a.py", "from ..plans.plan import files"),
    ],
)
def test_the_check_finds(path, source):
    assert len(violations(path, source)) == 1


@pytest.mark.parametrize(
    "path, source",
    [
        ("kernels/a.py", "import math, torch\nimport triton.language as tl\nfrom .grid import TokenGrid"),
        ("kernels/patterns/a.py", "from ..grid import TokenGrid\nfrom .base import Pattern\nfrom . import window"),
        ("kernels/patterns/a.py", "from ... import kernels"),
        ("plans/a.py", "import numpy\nfrom PIL import Image\nfrom ..kernels.grid import TokenGrid\nfrom . import plan"),
        ("plans/view/a.py", "from ..plan.plan import Plan\nfrom .. import search\nfrom ...kernels import grid"),
        ("plans/search/a.py", "from ..profile import columns\nfrom .cost import head_costs"),
        ("nodes/host/hooks/a.py", "import comfy.utils, folder_paths, nodes\nfrom ....plans.plan import Plan"),
        ("nodes/host/ui/a.py", "from ..core import stats\nfrom .. import session\nfrom .viewer import show_run"),
        ("nodes/host/select.py", "from .ui.report import say\nfrom ...plans.plan.plan import Plan"),
        ("nodes/a.py", "from .host.select import x\nfrom .host.session import run\nfrom .sockets import y"),
        ("__init__.py", "from .nodes import x"),
        ("tests/test_a.py", "import sparse_vdit, numpy, comfy\nfrom load_pack import ROOT\nfrom . import sample"),
    ],
)
def test_the_check_allows(path, source):
    assert violations(path, source) == []


# ComfyUI imports a pack from its folder's path, under a module name made from that path
LOAD = """
import importlib, importlib.util, pathlib, sys

folder = pathlib.Path(sys.argv[1])
name = str(folder).replace(".", "_x_")
spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
pack = sys.modules[name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pack)
assert callable(pack.comfy_entrypoint) and pack.WEB_DIRECTORY == "./web"
for layer in ("kernels", "plans"):
    for path in sorted((folder / layer).rglob("*.py")):
        parts = [part for part in path.relative_to(folder).with_suffix("").parts if part != "__init__"]
        if "triton_kernels" in parts and importlib.util.find_spec("triton") is None:
            continue
        importlib.import_module(".".join([name, *parts]))
        print("/".join(parts))
foreign = [n for n in sys.modules if n.split(".")[0] in ("comfy", "folder_paths", "kernels", "plans", "sparse_vdit")]
assert not foreign, foreign
assert not [n for n in sys.modules if n.startswith(name + ".nodes")], "kernels and plans need no nodes"
"""


def test_pack_can_be_imported_from_any_folder(tmp_path):
    folder = tmp_path / "custom.nodes" / "my pack-2"
    copied = [path for path in python_files() if layer_of(path) is not None]
    for path in copied:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, folder / path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    result = subprocess.run(
        [sys.executable, "-c", LOAD, str(folder)], cwd=elsewhere, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    modules = result.stdout.split()
    assert {"kernels/grid", "kernels/patterns/dense", "plans/plan/plan", "plans/plan/files"} <= {*modules}

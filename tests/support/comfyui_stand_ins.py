"""Modules of the pack that import ComfyUI, imported without it: its modules are stand-ins while that goes on, and gone
afterwards, so that nothing takes them for a ComfyUI."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType, SimpleNamespace

HOST = "sparse_vdit.nodes.host"


class Server:
    """In the place of ComfyUI's `PromptServer`; a test may set `instance`."""

    instance: object = None


def _stand_ins() -> dict[str, dict[str, object]]:
    """ComfyUI's modules by name, with what the pack imports of them by name, or sets and reads while it runs."""
    kinds = ("outer_sample", "apply_model", "diffusion_model")
    callbacks = ("on_pre_run", "on_prepare_state", "on_cleanup")
    return {
        "aiohttp": {"web": SimpleNamespace()},
        "server": {"PromptServer": Server},
        "folder_paths": {},
        "comfyui_version": {"__version__": "0"},
        "comfy": {},
        "comfy.utils": {},
        "comfy.cli_args": {"args": SimpleNamespace()},
        "comfy.model_management": {},
        "comfy.patcher_extension": {
            "CallbacksMP": SimpleNamespace(**{kind.upper(): kind for kind in callbacks}),
            "WrappersMP": SimpleNamespace(**{kind.upper(): kind for kind in kinds}),
            "get_wrappers_with_key": lambda kind, key, options: options.get("wrappers", {}).get(kind, {}).get(key, []),
        },
        "comfy.ldm": {},
        "comfy.ldm.modules": {},
        "comfy.ldm.modules.attention": {"optimized_attention": None},
        "comfy_execution": {},
        "comfy_execution.progress": {"get_progress_state": None},
    }


def host_module(name: str) -> ModuleType:
    """The module `nodes/host/<name>` (with dots), which ComfyUI is imported by."""
    whole = f"{HOST}.{name}"
    if whole in sys.modules:
        return sys.modules[whole]
    made = {}
    for module, content in _stand_ins().items():
        if module in sys.modules:
            continue
        made[module] = ModuleType(module)
        vars(made[module]).update(content)
        parent, _, last = module.rpartition(".")
        if parent in made:
            setattr(made[parent], last, made[module])
    sys.modules.update(made)
    try:
        return importlib.import_module(whole)
    finally:
        for module in made:
            del sys.modules[module]

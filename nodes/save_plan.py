"""Save Sparse Plan: keeps a plan where Load Sparse Plan finds it."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path

import folder_paths
from comfy_api.latest import io, ui

from ..plans.plan.files import PlanError, plan_bytes
from ..plans.plan.plan import Plan
from ..plans.plan.text import plan_to_text
from ..plans.plan.writing import write_all
from ..plans.profile.profile import Profile
from ..plans.profile.profile_files import profile_bytes
from .host.library.folders import FOLDER, checked_name, writable_folder
from .sockets import CATEGORY, PlanType, ProfileType, given


class SavePlan(io.ComfyNode):
    """Writes the plan, and the profile when one is connected."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="SparseVDiTSavePlan",
            display_name="Sparse-vDiT Save Sparse Plan",
            category=CATEGORY,
            description=f"Saves a plan in models/{FOLDER}. Load Sparse Plan lists it as user/<name>.",
            search_aliases=["save plan", "export plan", "plan"],
            is_output_node=True,
            inputs=[
                PlanType.Input("plan", tooltip="The plan to save, from Search Sparse Plan."),
                io.String.Input("file_name", default="my_plan", tooltip="File name without folder and extension."),
                io.Boolean.Input(
                    "overwrite",
                    default=False,
                    tooltip="Replace another plan of this name. Off: the new plan gets a number, for example "
                    "my_plan_2.",
                ),
                ProfileType.Input(
                    "profile",
                    optional=True,
                    tooltip="Optional. Saved with the plan as .safetensors.",
                ),
            ],
            outputs=[
                PlanType.Output(display_name="plan", tooltip="The same plan."),
                io.String.Output(
                    display_name="plan_text",
                    tooltip="The plan as text. Show it with Preview as Text and paste it into Load Sparse Plan: that "
                    "workflow then contains the plan.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, file_name: str | None) -> bool | str:
        """Refuse a name or a folder that cannot be written, before anything is generated; None is a name that another
        node gives."""
        try:
            checked_name("later" if file_name is None else file_name)
            writable_folder()
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, plan: Plan, file_name: str, overwrite: bool, profile: Profile | None = None) -> io.NodeOutput:
        """Saved plan.

        Raises:
            ValueError: a name with folders or signs that file systems refuse, or no plan.
        """
        contents = {".json": plan_bytes(given(plan))}
        if profile is not None:
            contents[".safetensors"] = profile_bytes(profile)
        text = save(contents, file_name, overwrite)
        try:
            shared = plan_to_text(plan)
        except PlanError as error:  # it is saved all the same
            shared = ""
            text += f"; it cannot be shared as text: {error}"
        return io.NodeOutput(plan, shared, ui=ui.PreviewText(text))


def save(contents: dict[str, bytes], file_name: str, overwrite: bool) -> str:
    """Write a plan and what belongs to it, by endings of files; says where. After minutes of profiling no error may be
    the end: a taken name gets a number, and ComfyUI's output takes what the folder of plans cannot.

    Raises:
        ValueError: a name with folders or signs that file systems refuse.
        OSError: neither folder can be written.
    """
    name = checked_name(file_name)
    try:
        return _save_in(writable_folder(), contents, name, overwrite)
    except (ValueError, OSError) as error:
        folder = Path(folder_paths.get_output_directory()) / "sparse_vdit"
        folder.mkdir(parents=True, exist_ok=True)
        return f"{_save_in(folder, contents, name, overwrite)} in {folder}, as {error}"


def _save_in(folder: Path, contents: dict[str, bytes], name: str, overwrite: bool) -> str:
    for tried in itertools.chain([name], (f"{name}_{n}" for n in itertools.count(2))):
        files = {folder / f"{tried}{ending}": content for ending, content in contents.items()}
        with contextlib.suppress(FileExistsError):
            write_all(files, overwrite)
            break
    text = "saved " + ", ".join(path.name for path in files)
    return text + (f", as another plan has the name {name}" if tried != name else "")

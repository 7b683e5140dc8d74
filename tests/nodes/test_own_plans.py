"""The user's own plans of a model: found by its numbers, the latest first."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from calibrations import COPY, KNOWN, SIGMAS, fingerprint_like
from sample_plans import PROVENANCE, small_plan
from sparse_vdit.nodes.host.calibration.calibrated_plan import FINGERPRINT, HIGHEST, LOWEST
from sparse_vdit.nodes.host.plan_choice.fingerprint import Fingerprint
from sparse_vdit.nodes.host.plan_choice.own_plans import models_in, own_plan, passed_over, told_by, unreadable
from sparse_vdit.nodes.host.plan_choice.plan_names import plan_name
from sparse_vdit.plans.plan.files import save_plan
from sparse_vdit.plans.plan.plan import Plan, Provenance

SHAPE = 4, 3, 128
OTHER = fingerprint_like(1.4)


def made(of: tuple[Fingerprint, ...] = (KNOWN,), **parameters: float | str) -> Plan:
    told = {name: text for one in of for name, text in told_by(one).items()}
    return small_plan(provenance=Provenance(rule="budget", parameters={**PROVENANCE.parameters, **told, **parameters}))


def saved(folder: Path, **plans: Plan) -> dict[str, Path]:
    """Files of plans, each a second later than the one before."""
    files = {}
    for second, (name, plan) in enumerate(plans.items()):
        path = files[f"user/{name}"] = save_plan(plan, folder / f"{name}.json")
        os.utime(path, (1e9 + second, 1e9 + second))
    return files


def found(
    files: dict[str, Path], known: Fingerprint | None = KNOWN, preset: str | None = "fast", **changes: object
) -> str | None:
    wanted = {"family": "wan", "shape": SHAPE, "sigmas": SIGMAS, **changes}
    plan = own_plan(files, known, wanted["family"], wanted["shape"], preset, wanted["sigmas"])
    return None if plan is None else plan_name(plan)


def test_the_latest_plan_of_the_model_is_taken(tmp_path: Path) -> None:
    files = saved(tmp_path, old=made(density=0.3), late=made(density=0.4), others=made((OTHER,)), none=small_plan())
    assert found(files) == "user/late"
    assert found(files, COPY) == "user/late"  # the same model in 8 bits
    assert found(files, OTHER) == "user/others"
    assert found(files, fingerprint_like(3.0)) is None
    assert found(files, None) is None
    assert found({}) is None


def test_a_plan_of_a_preset_is_taken_for_that_one_alone(tmp_path: Path) -> None:
    files = saved(tmp_path, any=made(density=0.4), fast=made(preset="fast"))
    assert found(files, preset="fast") == "user/fast"
    assert found(files, preset="balanced") == "user/any"
    assert found(files, preset=None) == "user/fast"


def test_a_plan_of_another_preset_is_named(tmp_path: Path) -> None:
    files = saved(tmp_path, mine=made(preset="fast"))
    assert found(files, preset="balanced") is None
    said = passed_over(own_plan(files, KNOWN, "wan", SHAPE, None, SIGMAS))
    assert said == "your own plan user/mine is for preset fast and was passed over"


def test_a_plan_of_both_models_of_wan_22_is_found_for_each(tmp_path: Path) -> None:
    files = saved(tmp_path, both=made((KNOWN, OTHER)))
    assert found(files) == found(files, OTHER) == "user/both"


@pytest.mark.parametrize(
    "changes", [{"family": "ltx"}, {"shape": (4, 4, 128)}, {"sigmas": (3.0, 2.0)}, {"sigmas": ()}], ids=str
)
def test_a_plan_that_says_nothing_of_the_run_is_passed_over(tmp_path: Path, changes: dict) -> None:
    assert found(saved(tmp_path, one=made()), **changes) is None


def test_a_plan_found_while_sampling_and_saved_again_is_the_users_own(tmp_path: Path) -> None:
    """Of 8-bit copies only where a noise level of the run was measured: Wan 2.2's other model looks like them."""
    told = {FINGERPRINT: str(KNOWN), HIGHEST: 1.0, LOWEST: 0.95}
    files = saved(tmp_path, mine=made((), **told))
    assert found(files) == found(files, COPY) == "user/mine"
    assert found(files, sigmas=(0.5, 0.2)) == "user/mine"
    assert found(files, COPY, sigmas=(0.5, 0.2)) is None
    assert found(files, OTHER) is None


def test_what_is_no_plan_is_passed_over(tmp_path: Path) -> None:
    files = saved(tmp_path, good=made())
    files["user/broken"], files["user/gone"] = tmp_path / "broken.json", tmp_path / "gone.json"
    files["user/broken"].write_text("{")
    files["user/strange"] = save_plan(made(**{"model x": "float16 00"}), tmp_path / "strange.json")
    os.utime(files["user/strange"], (1, 1))
    assert found(files) == "user/good"
    broken, gone = unreadable(files)
    assert broken.startswith("your own plan user/broken could not be read and was passed over: broken.json: is not")
    assert "user/gone" in gone and "gone.json" in gone
    files["user/more"], files["user/last"] = files["user/gone"], files["user/broken"]
    assert unreadable(files) == [broken, gone, "2 more of your own plans could not be read"]


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    files = saved(tmp_path, one=made((OTHER,)))
    assert found(files) is None
    save_plan(made(), files["user/one"], overwrite=True)
    assert found(files) == "user/one"


def test_fingerprints_of_two_models_do_not_meet_in_one_parameter() -> None:
    both = {**told_by(KNOWN), **told_by(OTHER), "rows": 3}
    assert len(models_in(both)) == 2 and told_by(None) == {}

"""Plan files: what is written is read back, and saving is all or nothing and never overwrites by accident."""

import dataclasses
import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from sample_plans import PROVENANCE, large_plan, listing, small_plan
from sparse_vdit.plans.plan import files
from sparse_vdit.plans.plan.files import PlanError, load_plan, plan_from_json, plan_to_json, save_plan
from sparse_vdit.plans.plan.plan import Provenance
from sparse_vdit.plans.plan.writing import write_all


@pytest.mark.parametrize("plan", [small_plan(), large_plan()], ids=["small", "large"])
def test_round_trip(plan, tmp_path):
    path = save_plan(plan, tmp_path / "a plan.json")
    assert load_plan(path) == plan == plan_from_json(plan_to_json(plan))
    assert list(listing(tmp_path)) == ["a plan.json"]
    assert hash(load_plan(path)) == hash(plan)


def test_text_is_stable_and_readable():
    text = plan_to_json(small_plan())
    assert plan_to_json(plan_from_json(text)) == text
    data = json.loads(text)
    keys = "format version family layers heads head_dim grid grade patterns bands provenance"
    assert list(data) == keys.split()
    assert (data["format"], data["version"], data["grid"]) == ("sparse-vdit-plan", 1, [5, 11, 6])
    band = {"kind": "diagonal", "order": "spatial", "frames": 1, "height": None, "width": None, "shift": 0}
    assert data["patterns"][2] == band
    assert "[3, 4, 0]," in [line.strip() for line in text.splitlines()]  # a layer's heads are a line
    assert "一只猫" in text


def test_large_plans_stay_small():
    assert len(plan_to_json(large_plan()).encode()) <= 40 * 1024


def test_key_order_and_byte_order_mark_do_not_matter(tmp_path):
    data = json.loads(plan_to_json(small_plan()))
    path = tmp_path / "p.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(dict(reversed(data.items()))).encode())
    assert load_plan(path) == small_plan()


def test_saving_never_overwrites_silently(tmp_path):
    path = tmp_path / "p.json"
    save_plan(small_plan(), path)
    before = listing(tmp_path)
    with pytest.raises(FileExistsError) as error:
        save_plan(small_plan(grade="prior"), path)
    assert "p.json" in str(error.value) and "overwrit" in str(error.value)
    assert listing(tmp_path) == before
    save_plan(small_plan(grade="prior"), path, overwrite=True)
    assert load_plan(path).grade == "prior" and list(listing(tmp_path)) == ["p.json"]


def test_saving_the_same_again_touches_nothing(tmp_path):
    path = save_plan(small_plan(), tmp_path / "p.json")
    os.utime(path, (1, 1))
    for overwrite in (False, True):
        assert save_plan(small_plan(), path, overwrite) == path
    assert path.stat().st_mtime == 1


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_plan_that_cannot_be_read_back_is_not_written(overwrite, tmp_path):
    save_plan(small_plan(), tmp_path / "old.json")
    before = listing(tmp_path)
    plan = small_plan(provenance=dataclasses.replace(PROVENANCE, parameters={}))
    plan.provenance.parameters["loss"] = True  # a table can be changed after the plan was checked
    for path in (tmp_path / "old.json", tmp_path / "new.json"):
        with pytest.raises(PlanError, match=r"^provenance\.parameters\.loss: True"):
            save_plan(plan, path, overwrite)
    assert listing(tmp_path) == before


def refuse(*_):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("calls", [("fsync",), ("replace", "link")], ids=["writing", "naming"])
def test_a_full_disk_leaves_nothing_behind(calls, tmp_path, monkeypatch):
    save_plan(small_plan(), tmp_path / "old.json")
    before = listing(tmp_path)
    for call in calls:
        monkeypatch.setattr(files.os, call, refuse)
    with pytest.raises(OSError, match="No space"):
        save_plan(small_plan(grade="prior"), tmp_path / "old.json", overwrite=True)
    with pytest.raises(OSError, match="No space"):
        save_plan(small_plan(grade="prior"), tmp_path / "new.json")
    assert listing(tmp_path) == before


def test_saving_works_without_hard_links(tmp_path, monkeypatch):
    monkeypatch.setattr(files.os, "link", refuse)
    path = save_plan(small_plan(), tmp_path / "p.json")
    assert load_plan(path) == small_plan() and list(listing(tmp_path)) == ["p.json"]
    with pytest.raises(FileExistsError):
        save_plan(small_plan(grade="prior"), path)
    assert load_plan(path) == small_plan()


@pytest.mark.parametrize("links", [True, False], ids=["with links", "without links"])
def test_a_file_that_appears_while_saving_is_kept(links, tmp_path, monkeypatch):
    """The other saver comes between the look at the folder and the new name."""
    path = tmp_path / "p.json"
    fsync = os.fsync

    def other_saver(descriptor):
        fsync(descriptor)
        path.write_bytes(b"of somebody else")

    monkeypatch.setattr(files.os, "fsync", other_saver)
    if not links:
        monkeypatch.setattr(files.os, "link", refuse)
    with pytest.raises(FileExistsError):
        save_plan(small_plan(), path)
    assert listing(tmp_path) == {"p.json": b"of somebody else"}


def test_many_savers_at_once(tmp_path):
    """One wins, savers of the same plan are content, the others are told; the file is whole."""
    plans = [small_plan(head_dim=64 + number % 4) for number in range(16)]

    def save(plan):
        try:
            save_plan(plan, tmp_path / "p.json")
        except FileExistsError:
            return None
        return plan

    with ThreadPoolExecutor(8) as pool:
        saved = [plan for plan in pool.map(save, plans) if plan]
    assert list(listing(tmp_path)) == ["p.json"]
    winner = load_plan(tmp_path / "p.json")
    assert saved and all(plan == winner for plan in saved)
    assert len(saved) == 4


def test_saving_into_no_folder_or_onto_a_folder_fails(tmp_path):
    with pytest.raises(FileNotFoundError):
        save_plan(small_plan(), tmp_path / "none" / "p.json")
    (tmp_path / "folder").mkdir()
    for overwrite in (False, True):
        with pytest.raises(OSError):
            save_plan(small_plan(), tmp_path / "folder", overwrite)
    assert [path.name for path in tmp_path.rglob("*")] == ["folder"]


def test_files_that_belong_together_are_written_together_or_not_at_all(tmp_path):
    first, second = tmp_path / "a.json", tmp_path / "a.safetensors"
    second.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"a\.safetensors"):
        write_all({first: b"1", second: b"2"})
    assert not first.exists()
    assert second.read_bytes() == b"mine"
    write_all({first: b"1", second: b"2"}, overwrite=True)
    assert (first.read_bytes(), second.read_bytes()) == (b"1", b"2")


def test_text_does_not_depend_on_the_order_of_provenance():
    plan = small_plan()
    turned = dict(reversed({"torch": "2", "python": "3", "a": "1"}.items()))
    texts = [
        plan_to_json(dataclasses.replace(plan, provenance=Provenance(versions=versions)))
        for versions in (turned, dict(reversed(turned.items())))
    ]
    assert texts[0] == texts[1]

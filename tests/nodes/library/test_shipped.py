"""Which shipped plan a model gets, and how a first generation completes it."""

from __future__ import annotations

from pathlib import Path

import model_stand_ins as stand_ins
import pytest
from calibrations import ALL, LAYERS, NONE, calibration, generate, toy
from runs import line
from sparse_vdit.kernels.patterns import Dense
from sparse_vdit.nodes.host.hooks.sampling import Sampling
from sparse_vdit.nodes.host.library.found import COMPLETES, completes
from sparse_vdit.nodes.host.library.shipped import SHIPPED, shipped_plan, variant
from sparse_vdit.nodes.host.models import detect
from sparse_vdit.plans.plan.files import load_plan
from sparse_vdit.plans.plan.plan import Plan
from sparse_vdit.plans.plan.presets import PRESETS
from torch import nn

WHOLE, FIRST, SECOND = (1.0, 0.9, 0.5, 0.0), (1.0, 0.9), (0.9, 0.5, 0.0)


def wan(layers: int, heads: int, channels: int = 16, image: bool = False) -> nn.Module:
    model = stand_ins.wan(layers, heads)
    model.in_dim, model.img_emb = channels, nn.Identity() if image else None
    return model


def hunyuan(doubles: int, singles: int, heads: int, channels: int) -> nn.Module:
    model = stand_ins.hunyuan(doubles, singles, heads)
    model.in_channels = channels
    return model


def cogvideox(layers: int, heads: int, in_time: int | None) -> nn.Module:
    model = stand_ins.CogVideoXTransformer3DModel(in_time)
    model.blocks, model.num_attention_heads = stand_ins.blocks(layers), heads
    return model


def sampling(model: nn.Module, sigmas: tuple[float, ...] = WHOLE) -> Sampling:
    patcher = nn.Identity()
    patcher.get_model_object = lambda name: patcher
    patcher.percent_to_sigma = lambda percent: 8 * (1 - percent) / (1 + 7 * (1 - percent))
    return Sampling(patcher, model, detect(model), sigmas)


@pytest.mark.parametrize(
    ("model", "sigmas", "file"),
    [
        (wan(30, 12), WHOLE, "wan2.1_1.3b_t2v"),
        (wan(40, 40), WHOLE, "wan2.1_14b_t2v"),
        (wan(40, 40), (), "wan2.1_14b_t2v"),
        (wan(40, 40), FIRST, "wan2.2_a14b_t2v"),
        (wan(40, 40), SECOND, "wan2.2_a14b_t2v"),
        (wan(40, 40, 36, image=True), WHOLE, "wan2.1_14b_i2v"),
        (wan(40, 40, 36, image=True), FIRST, "wan2.1_14b_i2v"),
        (wan(40, 40, 48, image=True), WHOLE, "wan2.1_14b_i2v"),
        (wan(40, 40, 36), WHOLE, "wan2.2_a14b_i2v"),
        (wan(30, 24, 48), WHOLE, "wan2.2_5b"),
        (hunyuan(20, 40, 24, 16), WHOLE, "hunyuanvideo_t2v"),
        (hunyuan(20, 40, 24, 33), WHOLE, "hunyuanvideo_i2v"),
        (hunyuan(54, 0, 16, 65), WHOLE, "hunyuanvideo_1.5"),
        (cogvideox(30, 30, None), WHOLE, "cogvideox_2b"),
        (cogvideox(42, 48, None), WHOLE, "cogvideox_5b"),
        (cogvideox(42, 48, 2), WHOLE, "cogvideox_1.5_5b"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_published_model_gets_the_plan_of_its_likest(model, sigmas, file) -> None:
    found = sampling(model, sigmas)
    shape = found.family.shape(model)
    likest = variant(found)
    assert likest.file == file
    assert likest.why.startswith(f"{shape[0]} layers of {shape[1]} heads")
    for preset in PRESETS:
        plan = shipped_plan(found.family.name, shape, file, preset)
        assert plan is not None and plan.provenance.parameters.get("preset", preset) == preset


@pytest.mark.parametrize("model", [wan(4, 3), wan(40, 12), hunyuan(2, 3, 2, 16), cogvideox(30, 48, None)])
def test_other_shapes_are_no_published_model(model) -> None:
    assert variant(sampling(model)) is None


def test_a_relative_is_said_to_be_one() -> None:
    assert "(a relative, with 48 channels)" in variant(sampling(wan(40, 40, 48, image=True))).why
    assert "relative" not in variant(sampling(wan(40, 40, 36))).why


def test_a_plan_of_another_shape_or_a_damaged_file_is_none(tmp_path: Path) -> None:
    shape = 30, 12, 128
    folder = tmp_path / "wan"
    folder.mkdir()
    assert shipped_plan("wan", shape, "wan2.1_1.3b_t2v", "fast", tmp_path) is None
    (folder / "wan2.1_1.3b_t2v.fast.json").write_text("{")
    assert shipped_plan("wan", shape, "wan2.1_1.3b_t2v", "fast", tmp_path) is None
    content = (SHIPPED / "wan" / "wan2.2_5b.calibrate.json").read_bytes()
    (folder / "wan2.1_1.3b_t2v.calibrate.json").write_bytes(content)
    assert shipped_plan("wan", shape, "wan2.1_1.3b_t2v", "fast", tmp_path) is None
    assert shipped_plan("wan", (30, 24, 128), "wan2.1_1.3b_t2v", "fast", tmp_path).grade == "calibrate"


def found_plan(folder: Path) -> Plan:
    (path,) = folder.glob("*.json")
    return load_plan(path)


@pytest.mark.parametrize("grade", ["prior", "calibrate"])
def test_the_first_run_completes_the_shipped_plan_and_the_second_begins_with_it(tmp_path: Path, grade: str) -> None:
    first = calibration(tmp_path, shipped=toy(grade))
    assert generate(first) == [NONE, NONE, ALL, ALL]
    assert f"wan/toy.{grade} ({grade}) completed: found in this run; for the next run kept as user/" in line(first)
    plan = found_plan(tmp_path)
    assert plan.grade == "measured" and plan.card is None
    assert plan.provenance.parameters[COMPLETES].startswith(f"Toy, {grade}, ")
    second = calibration(tmp_path, shipped=toy(grade))
    assert second.policy.planned.plan.bands == plan.bands
    assert generate(second) == [NONE, NONE, ALL, ALL]
    assert f"wan/toy.{grade} ({grade}) completed: calibrated plan of" in line(second)


@pytest.fixture
def careless(monkeypatch) -> None:
    """A preset that allows so much error that limits alone keep heads dense."""
    monkeypatch.setitem(PRESETS, "fast", 0.9)


def test_what_is_found_is_as_dense_as_the_card_asks(tmp_path: Path, careless) -> None:
    densities = []
    for number, least in enumerate((0.0, 0.8)):
        folder = tmp_path / str(number)
        folder.mkdir()
        generate(calibration(folder, shipped=toy("calibrate", least)))
        densities.append(found_plan(folder).density())
    assert densities[0] < 0.65 and 0.7 < densities[1] <= 0.8


def test_heads_that_the_card_keeps_dense_stay_so(tmp_path: Path, careless) -> None:
    kept = ((0, 1), (2, 0))
    generate(calibration(tmp_path, shipped=toy("calibrate", kept_dense=kept)))
    plan = found_plan(tmp_path)
    dense = {(layer, head) for layer in range(LAYERS) for head in range(3) if plan.pattern(0, layer, head) == Dense()}
    assert dense >= {*kept} and len(dense) < 3 * LAYERS


def test_another_shipped_plan_has_it_searched_again(tmp_path: Path, careless) -> None:
    generate(calibration(tmp_path, shipped=toy("calibrate")))
    before = found_plan(tmp_path)
    generate(calibration(tmp_path, shipped=toy("calibrate", 0.8)))
    after = found_plan(tmp_path)
    assert before.provenance.parameters[COMPLETES] != after.provenance.parameters[COMPLETES]
    assert after.density() > before.density()
    generate(calibration(tmp_path))
    assert COMPLETES not in found_plan(tmp_path).provenance.parameters


def test_where_nothing_can_be_measured_the_prior_runs_as_it_ships(tmp_path: Path, monkeypatch) -> None:
    run = calibration(tmp_path, shipped=toy("prior"))

    def broken(*_: object) -> None:
        raise RuntimeError("no room")

    monkeypatch.setattr(run.policy.measurement, "observe", broken)
    assert generate(run) == [NONE, NONE, ALL, ALL]
    said = line(run)
    assert "(plan wan/toy.prior, not timed)" in said
    assert "no room" in said and "so wan/toy.prior runs as it ships" in said
    assert not [*tmp_path.iterdir()]


def test_a_card_without_patterns_leaves_such_a_run_dense(tmp_path: Path, monkeypatch) -> None:
    run = calibration(tmp_path, shipped=toy("calibrate"))

    def broken(*_: object) -> None:
        raise RuntimeError("no room")

    monkeypatch.setattr(run.policy.measurement, "observe", broken)
    assert generate(run) == [NONE] * 4
    assert "runs as it ships" not in line(run)


def test_the_note_on_the_completed_plan_follows_its_content() -> None:
    one, other = toy("prior"), toy("prior", 0.5)
    assert completes(None) == "" and completes(one) == completes(toy("prior")) != completes(other)

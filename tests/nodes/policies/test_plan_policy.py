"""What a plan decides about calls: noise levels, dense layers, and what users are told of it."""

from __future__ import annotations

import pytest
import torch
from dense_attention import model_attention
from runs import CPU, GRID, HEADS, dense_calls, forward, line, plan_of, policy, qkv, run_of
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.patterns import Dense, Diagonal, Skip
from sparse_vdit.nodes.host.core import fallback
from sparse_vdit.nodes.host.policies import plan as plan_module
from sparse_vdit.nodes.host.policies.plan import PlanPolicy
from sparse_vdit.nodes.host.session.call import Call, Sparse
from sparse_vdit.plans.plan.binding import KEPT_GRIDS
from sparse_vdit.plans.plan.plan import Band, Plan, Provenance, uniform_plan
from sparse_vdit.plans.search.kept_dense import kept_dense, with_dense


def call(layer: int, grid: tuple[int, int, int] = GRID, heads: int = HEADS) -> Call:
    """A call whose numbers nobody reads."""
    tokens = TokenGrid(*grid)
    return Call(layer, tokens, *torch.zeros(3, 1, tokens.tokens, heads, 128).unbind())


def test_what_launches_read_is_made_before_the_forward() -> None:
    made = policy(Diagonal(0))
    assert made.begin_step(0.5) is None
    made.prepare(TokenGrid(*GRID), 2, CPU)
    lists, table = made.bound.lists(TokenGrid(*GRID), CPU)
    assert {"orders", (table[0][0] * 2, 3)} <= set(lists._cache)


def test_dense_decisions_by_noise_level() -> None:
    made = policy(Diagonal(0), start=0.9, end=0.2)
    decided = [made.begin_step(sigma) for sigma in (0.95, 0.9, 0.2, 0.1)]
    assert decided == [fallback.WARM_UP, None, None, fallback.AFTER_END]
    rounded = torch.tensor([0.9, 0.2]).tolist()  # as schedules are, to float32: just above and below
    assert rounded[0] != 0.9 and [made.begin_step(sigma) for sigma in rounded] == [None, None]
    half = PlanPolicy(uniform_plan("wan", 4, 3, 128, GRID, Dense(), sigma_high=0.8, sigma_low=0.4), 1.0, 0.0, "torch")
    assert half.begin_step(0.9) == half.begin_step(0.4) == fallback.NO_BAND
    assert half.begin_step(0.5) is None


def test_each_band_has_lists_of_its_own_and_a_decision_is_made_once() -> None:
    bands = (Band(1.0, 0.5, ((0,) * 3,) * 2), Band(0.5, 0.0, ((0, 1, 0), (1,) * 3)))
    patterns = (Diagonal(0), Diagonal(2))
    made = PlanPolicy(Plan("wan", 2, 3, 128, GRID, patterns, bands, "measured", Provenance()), 1.0, 0.0, "torch")
    decided = []
    for sigma in (0.7, 0.3, 0.2):
        made.begin_step(sigma)
        decided.append(made.decide(call(0)))
    assert all(isinstance(one, Sparse) for one in decided)
    assert decided[0].head_lists[0] == decided[0].head_lists[1]
    assert decided[1].head_lists[0] != decided[1].head_lists[1]
    assert decided[0].density < decided[1].density
    assert decided[1] is decided[2] is not decided[0]


def test_no_more_grids_are_kept_than_the_plan_keeps() -> None:
    made = policy(Diagonal(0))
    made.begin_step(0.5)
    first = made.decide(call(0))
    assert made.decide(call(0)) is first
    for width in range(KEPT_GRIDS):
        made.decide(call(0, (5, 8, 12 + width)))
    assert made.decide(call(0)) is not first


def test_calls_of_another_shape_stay_dense() -> None:
    made = policy(Diagonal(0), layers=2)
    made.begin_step(0.5)
    assert made.decide(call(2)) == made.decide(call(-1)) == fallback.NO_LAYER
    assert made.decide(call(1, heads=4)) == fallback.OTHER_HEADS
    assert isinstance(made.decide(call(1)), Sparse)


def test_all_heads_dense_is_the_models_own_attention() -> None:
    run, x = run_of(policy(Dense(), backend="auto", layers=1)), qkv()
    assert torch.equal(forward(run, 0.5, x)[0], model_attention(*x, HEADS))
    assert dense_calls(run) == {fallback.DENSE_HEADS: 1}
    named = policy(Dense(), layers=1)
    named.begin_step(0.5)
    assert isinstance(named.decide(call(0)), Sparse)  # who names a backend gets it


def test_what_the_user_keeps_dense_is_told_from_a_dense_plan() -> None:
    """Layer 0 is dense by the plan, layer 1 by the user."""
    plan = with_dense(uniform_plan("wan", 3, HEADS, 128, GRID, Diagonal(0)), kept_dense("0"))
    made = PlanPolicy(plan, 1.0, 0.0, "auto", kept=kept_dense("1"))
    made.begin_step(0.5)
    assert made.decide(call(0)) == fallback.DENSE_HEADS
    assert made.decide(call(1)) == fallback.KEPT_DENSE
    assert isinstance(made.decide(call(2)), Sparse)
    assert made.whole is plan


def test_patterns_that_leave_nothing_out_are_the_plans() -> None:
    made = policy(Diagonal(9, 1.0, 1.0), backend="auto")
    made.begin_step(0.5)
    assert made.decide(call(0)) == fallback.DENSE_HEADS


def test_a_video_too_small_for_the_patterns_is_told_from_a_dense_plan() -> None:
    """60 tokens are not even one full tile."""
    run = run_of(policy(Diagonal(0), backend="auto", layers=1))
    forward(run, 0.5, qkv(tokens=60), (3, 4, 5))
    assert dense_calls(run) == {fallback.TOO_SMALL: 1}
    assert "3x4x5 tokens are too few for patterns that were measured on 5x8x11 tokens" in run.policy.summary()
    assert fallback.TOO_SMALL.sentence in line(run)


def test_plans_that_skip_many_heads_are_warned_of_where_they_run() -> None:
    run = run_of(policy(Skip(), layers=2))
    assert run.policy.summary() == ""
    forward(run, 0.5, qkv())
    assert run.policy.summary().count("the plan skips 100% of the heads") == 1


def test_a_video_far_from_the_measured_one_is_warned_of_where_it_runs() -> None:
    run = run_of(policy(Diagonal(0), layers=2))
    forward(run, 0.5, qkv(tokens=5 * 8 * 40), (5, 8, 40))
    assert run.policy.summary().count("this video has 5x8x40 tokens") == 1


def test_the_details_are_of_the_plan_as_it_ran() -> None:
    plan = plan_of([Diagonal(0), Diagonal(1)], 3, 128).named("user/mine")
    made = PlanPolicy(plan, 1.0, 0.0, "torch", kept=kept_dense("1"))
    made.begin_step(0.5)
    decided = made.decide(call(0))
    detail = made.detail()
    assert detail["plan"] == made.title == "wan, plan user/mine (measured)"
    (band,) = detail["bands"]
    assert band["sigma"] == [1.0, 0.0]
    assert band["patterns"] == [["diagonal"] * 3, ["dense"] * 3]
    assert band["densities"] == {"5x8x11": [[round(decided.density, 4)] * 3, [1.0] * 3]}
    assert detail["times"] == {}


def test_freed_it_can_decide_again() -> None:
    made = policy(Diagonal(0))
    made.begin_step(0.5)
    first = made.decide(call(0))
    made.free()
    assert not made.bound._kept
    again = made.decide(call(0))
    assert again is not first and again.density == first.density


def test_a_layer_that_the_plan_has_not_cannot_be_kept_dense() -> None:
    with pytest.raises(ValueError, match="7"):
        PlanPolicy(uniform_plan("wan", 3, HEADS, 128, GRID, Diagonal(0)), 1.0, 0.0, kept=kept_dense("7"))


def test_the_first_use_of_a_gpu_is_announced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "_announced", set())
    monkeypatch.setattr(plan_module, "try_kernels", lambda *args: None)
    said: list[str] = []
    made = PlanPolicy(uniform_plan("wan", 1, HEADS, 128, GRID, Diagonal(0)), 1.0, 0.0, say=said.append)
    for device in ("cpu", "cuda:0", "cuda:0", "cuda:1"):
        made.try_kernels(torch.device(device), torch.bfloat16)
    assert [text.split(";")[0] for text in said] == [f"preparing the kernels for cuda:{number}" for number in (0, 1)]

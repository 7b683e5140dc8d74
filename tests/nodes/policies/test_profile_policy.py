"""What a run of Profile Heads does with calls: measures each, and keeps the video dense unless its flow is not."""

from __future__ import annotations

import pytest
import torch
from calibrations import CANDIDATES, GRID, HEADS, LAYERS, model, qkv
from runs import dense_calls, forward, line, ran_sparse, run_of, sparse_calls
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.nodes.host.core import fallback
from sparse_vdit.nodes.host.models import WAN
from sparse_vdit.nodes.host.policies.profile import ProfilePolicy
from sparse_vdit.nodes.host.session.call import Call, Computed
from sparse_vdit.plans.profile.profiler import Profiler


def profiling(**options: object) -> ProfilePolicy:
    """Of two bands below noise level .9."""
    bands = ((0.9, 0.5), (0.5, 0.0))
    profiler = Profiler("wan", "toy", LAYERS, HEADS, 128, CANDIDATES, bands, rows=16, **options)
    return ProfilePolicy(profiler, model(), WAN)


def call(layer: int, grid: tuple[int, ...] = GRID, **more: object) -> Call:
    tokens = TokenGrid(*grid)
    heads = (torch.randn(1, tokens.tokens, HEADS, 128) for _ in range(3))
    return Call(layer, tokens, *heads, **more)


def test_a_dense_flow_measures_every_call_of_every_layer_and_leaves_the_video_alone() -> None:
    run = run_of(profiling())
    for sigma in (0.95, 0.7, 0.3):
        forward(run, sigma, lambda layer: qkv(layer), GRID)
    assert dense_calls(run) == {fallback.WARM_UP: LAYERS, fallback.PROFILING: 2 * LAYERS}
    assert run.policy.observed == 2 * LAYERS
    assert run.policy.seconds == pytest.approx(run.stats.milliseconds["profiling"] / 1000) and run.policy.seconds > 0
    assert run.policy.profiler.profile().samples.tolist() == [[1] * LAYERS] * 2
    assert "wan, profiling, 5x8x9 tokens" in line(run)


def test_in_a_sequential_flow_each_layer_runs_what_the_profiler_gives() -> None:
    run = run_of(profiling(flow="sequential", lam=0.5, epsilon=1.0))
    outputs = forward(run, 0.7, lambda layer: qkv(layer), GRID)
    assert ran_sparse(run) == [True] * LAYERS and sparse_calls(run) == LAYERS
    assert all(torch.isfinite(out).all() for out in outputs)
    assert "backend profiling" in line(run)


def test_what_flows_on_is_the_calls_own_and_given_once() -> None:
    """Memory of the profiler's own may be used again."""
    policy = profiling(flow="sequential", lam=0.5, epsilon=1.0)
    policy.begin_step(0.7)
    one = call(0)
    policy.observe(one)
    flowing = policy._flowing
    decided = policy.decide(one)
    assert isinstance(decided, Computed) and torch.equal(decided.out, flowing)
    assert decided.out.data_ptr() != flowing.data_ptr()
    assert policy.decide(one) == fallback.PROFILING


def test_calls_that_cannot_be_measured_say_why() -> None:
    policy = profiling()
    policy.begin_step(0.7)
    policy.observe(call(0))
    for refused, why in (
        (call(0, mask=torch.zeros(1, 1, 360)), fallback.MASKED),
        (call(LAYERS), fallback.NO_LAYER),
        (call(1, (*GRID, 7, 0)), fallback.OTHER_TEXT),  # as a negative prompt of another length
    ):
        assert not policy.take(refused)
        assert policy.decide(refused) == why
    assert policy.take(call(1))


def test_output_matrices_are_made_once_and_dropped() -> None:
    policy = profiling()
    policy.begin_step(0.7)
    policy.observe(call(1))
    gram = policy._grams[1]
    policy.observe(call(1))
    assert policy._grams == {1: gram} and gram.shape == (HEADS, 128, 128)
    policy.forget()
    assert not policy._grams and policy.model is not None
    policy.free()
    assert policy.model is None

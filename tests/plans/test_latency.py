"""Latency tables: what is launched, what is fitted to it, and a measurement from end to end on the CPU."""

import dataclasses
import math

import pytest
import torch
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.lists import pattern_density
from sparse_vdit.kernels.patterns import Dense, Diagonal, MultiDiagonal, Routed, Skip, VerticalStripe
from sparse_vdit.plans.profile.columns import ProfiledStripe
from sparse_vdit.plans.profile.profile import ProfileHeader
from sparse_vdit.plans.search import latency
from sparse_vdit.plans.search.latency import Latencies, LatencyError, TimedLaunch, fit, knot_patterns, launch_heads

GRID = (7, 9, 13)
CANDIDATES = (
    Dense(),
    Skip(),
    Diagonal(0),
    Diagonal(1),
    MultiDiagonal(0.1, 0.1),
    VerticalStripe(),
    Routed(0.1),
    Routed(0.4),
)


def header(candidates=CANDIDATES, heads=3):
    densities = tuple(pattern_density(pattern, TokenGrid(*GRID), 32, 16) for pattern in candidates)
    return ProfileHeader("wan", "made up", 2, heads, 24, GRID, 32, 16, candidates, densities, ((1.0, 0.0),))


def planted(patterns, count, jitter=0.0):
    """Launches whose heads take 1 + 10 density, twice that where tiles are chosen, and .5 where nothing is done."""
    times = {
        p: (0.5 if isinstance(p, Skip) else (1 + 10 * d) * (1 + isinstance(p, Routed))) for p, d in patterns.items()
    }
    launches = []
    for number, heads in enumerate(launch_heads(patterns, count)):
        launches.append(TimedLaunch(heads, sum(times[p] for p in heads) * (1 + jitter * (-1) ** number)))
    return launches


@pytest.mark.parametrize("count", [4, 5, 12])
def test_heads_of_all_kinds_get_their_own_times_back(count):
    patterns = knot_patterns(header())
    found = fit(planted(patterns, count), patterns, 12.5, "a card")
    assert found.skip == pytest.approx(0.5)
    for density, milliseconds in found.static_knots:
        assert milliseconds == pytest.approx(1 + 10 * density)
    for density, milliseconds in found.routed_knots:
        assert milliseconds == pytest.approx(2 + 20 * density)
    assert len(found.static_knots) >= 4 and len(found.routed_knots) == 2
    assert found.deviation == pytest.approx(0, abs=1e-9)
    assert (found.device, found.dense) == ("a card", 12.5)


def test_what_heads_do_not_explain_is_told():
    patterns = knot_patterns(header())
    found = fit(planted(patterns, 6, jitter=0.1), patterns, 12.5, "a card")
    assert 0.01 < found.deviation < 0.2
    for knots in (found.static_knots, found.routed_knots):
        assert [time for _, time in knots] == sorted(time for _, time in knots)


def test_between_measured_densities_times_are_linear_and_below_the_lowest_they_are_its():
    found = Latencies("a card", 12.0, 0.5, ((0.1, 2.0), (0.3, 4.0), (1.0, 11.0)), ((0.2, 6.0), (0.4, 10.0)), 0.0)
    assert found.static(0.2) == pytest.approx(3.0)
    assert found.static(0.65) == pytest.approx(7.5)
    assert found.static(0.01) == 2.0
    assert found.routed(0.3) == pytest.approx(8.0)
    assert Latencies("a card", 12.0, 0.5, found.static_knots, (), 0.0).routed(0.2) == pytest.approx(3.0)


TABLE = Latencies("a card", 12.0, 0.5, ((0.1, 2.0), (1.0, 11.0)), ((0.2, 6.0),), 0.04)


def test_a_table_comes_back_from_its_numbers():
    assert Latencies.from_numbers(TABLE.numbers(), "a card") == TABLE
    without = dataclasses.replace(TABLE, routed_knots=())
    assert Latencies.from_numbers(without.numbers(), "a card") == without


@pytest.mark.parametrize("lost", ["dense", "skip", "deviation", "static 0.100000"])
def test_what_is_no_whole_table_is_none(lost):
    numbers = TABLE.numbers()
    del numbers[lost]
    assert Latencies.from_numbers(numbers, "a card") is None


@pytest.mark.parametrize("name", ["static x", "static nan", "static 1.5", "routed -0.1", "routed "])
def test_densities_that_are_none_spoil_a_table(name):
    assert Latencies.from_numbers({**TABLE.numbers(), name: 1.0}, "a card") is None
    assert Latencies.from_numbers({**TABLE.numbers(), "dense": 0.0}, "a card") is None
    assert Latencies.from_numbers({}, "a card") is None


def test_stripes_whose_columns_hang_on_the_head_are_no_part_of_launches():
    head = header()
    more = dataclasses.replace(head, candidates=(*CANDIDATES, ProfiledStripe(0.06)), densities=(*head.densities, 0.05))
    assert knot_patterns(more) == knot_patterns(head)


def test_launches_cover_every_pattern_alone_and_mixed_and_skip_beside_others():
    patterns = knot_patterns(header())
    launches = launch_heads(patterns, 7)
    assert {heads[0] for heads in launches if len(set(heads)) == 1} == set(patterns) - {Skip()}
    assert all(len(heads) == 7 for heads in launches)
    assert any(Skip() in heads and len(set(heads)) == 2 for heads in launches)
    assert any(len(set(heads)) >= 5 for heads in launches)


def test_measured_on_the_cpu_from_end_to_end():
    done = []
    found = latency.measure_latencies(
        header(),
        torch.device("cpu"),
        torch.float32,
        lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))),
        "cpu",
        lambda count, of: done.append((count, of)),
    )
    assert found.dense > 0
    assert all(0 <= time < math.inf for _, time in (*found.static_knots, *found.routed_knots))
    assert found.static_knots[-1][0] == 1.0 and found.static_knots[-1][1] > 0
    assert [count for count, _ in done] == sorted(count for count, _ in done)
    assert {of for _, of in done} == {done[-1][0]}


def test_candidates_without_routed_heads_are_measured_too(monkeypatch):
    monkeypatch.setattr(latency, "_milliseconds", lambda call, device: call() is None or 1.0)
    only = header((Dense(), Diagonal(0), Diagonal(1)), heads=40)
    found = latency.measure_latencies(only, torch.device("cpu"), torch.float32, lambda *qkv: 0, "cpu")
    assert found.routed_knots == ()
    assert found.dense == pytest.approx(1 / 40)  # a small grid takes all heads at once


def test_the_fastest_of_some_rounds_counts_and_a_slow_device_has_one(monkeypatch):
    calls, now, said = [], [0.0], []

    def taking(name, *seconds):
        left = list(seconds)

        def call():
            calls.append(name)
            now[0] += left.pop(0)

        return call

    monkeypatch.setattr(latency.time, "perf_counter", lambda: now[0])
    cpu = torch.device("cpu")
    found = latency._fastest([taking("a", 9.0, 3.0, 1.0, 2.0), taking("b", 1.0, 1.0, 4.0, 5.0)], cpu, lambda *at: None)
    assert found == pytest.approx([1000.0, 1000.0])
    assert calls == ["a", "b"] * 4
    calls.clear()
    found = latency._fastest([taking("a", 15.0, 7.0), taking("b", 2.0, 3.0)], cpu, lambda *at: said.append(at))
    assert found == pytest.approx([7000.0, 3000.0])
    assert calls == ["a", "b"] * 2
    assert said[-1] == (8, 8)


def test_a_gpu_without_fast_kernels_is_not_measured(monkeypatch):
    bench = latency._Bench(header(), [Dense(), Diagonal(0)], 4, torch.device("cpu"), torch.float32)
    assert bench.call((Diagonal(0),) * 4)().shape == (1, 819, 4, 24)
    bench.qkv = [x.to("meta") for x in bench.qkv]
    bench.lists = bench.lists.to("meta")
    monkeypatch.setattr(latency, "choose_backend", lambda call: ("torch", "triton: is not installed"))
    with pytest.raises(LatencyError, match="no fast kernels for this device: triton: is not installed"):
        bench.call((Dense(),) * 4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_measured_on_a_gpu():
    """Tiles of the kernels' size; a dense head takes longer than a skipped one wherever kernels run at all."""
    grid, device = (9, 30, 31), torch.device("cuda")
    densities = tuple(pattern_density(pattern, TokenGrid(*grid)) for pattern in CANDIDATES)
    head = ProfileHeader("wan", "", 2, 12, 128, grid, 128, 64, CANDIDATES, densities, ((1.0, 0.0),))

    def dense(q, k, v):
        return torch.nn.functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)))

    found = latency.measure_latencies(head, device, torch.bfloat16, dense, "gpu")
    assert 0 <= found.skip < found.static(1.0)
    assert len(found.routed_knots) == 2
    assert math.isfinite(found.deviation)

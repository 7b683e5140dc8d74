"""The kernel benchmark runs without a GPU, its exact answer is exact, and launches are simulated right."""

import json
import os
import subprocess
import sys

import pytest
import torch
from load_pack import ROOT
from PIL import Image
from sparse_vdit.kernels.call import AttentionCall
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.lists import TileListBuilder
from sparse_vdit.kernels.oracle import pattern_attention
from sparse_vdit.kernels.patterns import Dense, Diagonal, MultiDiagonal, Routed, Skip, VerticalStripe

from tools.schedule import imbalance, makespan, program_work

WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
GRIDS = [TokenGrid(5, 7, 11, 5, 3), TokenGrid(3, 9, 13), TokenGrid(1, 7, 5, 0, 40)]
TILES = (32, 16)
PATTERNS = [Skip(), Diagonal(), Dense(), MultiDiagonal(0.1, 0.1), VerticalStripe()]
FIELDS = (
    "shape", "tokens", "heads", "head_dim", "method", "density", "ms", "tflops_kept", "fraction_of_best_dense",
    "fraction_of_ideal", "rel_l2", "extra_bytes_fraction",
)  # fmt: skip

KERNELS = (sys.executable, "-m", "benchmarks.kernels.kernels")


def built(grid, patterns):
    builder = TileListBuilder(grid, *TILES)
    numbers = [builder.add(pattern) for pattern in patterns]
    return builder.build(), numbers


@pytest.fixture
def methods():
    from benchmarks.kernels import kernel_methods

    return kernel_methods


def test_whole_path_without_gpu(tmp_path):
    command = [*KERNELS, "--device", "cpu", "--quick", "--folder", str(tmp_path)]
    command += ["--densities", "0.3", "--methods", "sdpa", "ours_torch", "kitchen_sol_topk"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=300)
    assert result.returncode == 0, result.stderr
    content = json.loads(next(tmp_path.glob("kernels-*.json")).read_text())
    assert content["benchmark"] == "kernels" and content["command"].startswith("python -m benchmarks.kernels.kernels")
    measured = [row for row in content["rows"] if "ms" in row]
    assert [(row["method"], round(row["density"], 1)) for row in measured] == [
        ("sdpa", 1.0), ("ours_torch", 1.0), ("ours_torch", 0.3),
    ]  # fmt: skip
    for row in measured:
        assert {*FIELDS} <= {*row} and row["ms"] > 0 and row["rel_l2"] < 1e-5
        assert f"{row['method']:25}" in result.stdout
    assert all("prepare_ms" in row for row in measured)
    skipped = [row for row in content["rows"] if "skipped" in row]
    assert [row["method"] for row in skipped] == ["kitchen_sol_topk"] and skipped[0]["skipped"]
    assert Image.open(next(tmp_path.glob("*.png"))).width > 300


def test_nothing_begins_after_the_deadline(tmp_path):
    command = [*KERNELS, "--device", "cpu", "--minutes", "0", "--folder", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 1 and "nothing was measured" in result.stderr
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "gpu"], "--device gpu is neither cpu nor cuda"),
        (["--device", "cpu", "--densities", "0.2", "2"], "--densities 2.0 is not above 0 and up to 1"),
        (["--device", "cpu", "--methods", "sdpa", "ours_packed"], "--methods ours_packed need a GPU"),
        pytest.param([], "there is no GPU that torch can use; --device cpu", marks=WITHOUT_GPU),
    ],
)
def test_what_cannot_be_measured_is_said_in_a_line(options, message):
    command = [*KERNELS, *options]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_exact_rows_are_the_oracles(grid, methods):
    from benchmarks.kernels.kernel_cases import exact

    generator = torch.Generator().manual_seed(1)
    patterns = PATTERNS[1:]
    lists, numbers = built(grid, patterns)
    q, k, v = (torch.randn(1, grid.tokens, len(numbers), 16, generator=generator) for _ in range(3))
    heads, rows = torch.arange(len(numbers)), torch.tensor([0, grid.tokens // 2, grid.tokens - 1])
    found = exact(AttentionCall(q, k, v, lists, tuple(numbers)), heads, rows)
    truth = pattern_attention(q, k, v, patterns, grid, *TILES)[0, rows].transpose(0, 1)
    assert (found - truth).norm() / truth.norm() < 1e-5


@pytest.mark.parametrize("density", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("blocks, text", [(1182, 0), (1861, 5), (705, 4)])
def test_sol_is_given_the_same_density(density, blocks, text, methods):
    video = blocks - text
    chosen = methods.topk_ratio(blocks, text, density) * video
    own = 3 * (1 - chosen / video)  # of the own blocks, those that are not among the chosen anyway
    kept = text * blocks + text * video + video * (chosen + own)
    assert kept / blocks**2 == pytest.approx(density, abs=0.002)


@pytest.mark.parametrize("blocks, text", [(1182, 0), (1861, 5), (705, 4), (4, 3)])
def test_sol_is_never_asked_for_a_share_that_it_refuses(blocks, text, methods):
    for density in (0.01, 0.1, 0.2, 0.3, 0.5, 1.0):
        assert 0 < methods.topk_ratio(blocks, text, density) < 1


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_work_is_what_the_lists_say(grid):
    lists, numbers = built(grid, PATTERNS)
    work = program_work(lists, numbers, rows=TILES[0])
    blocks = -(-grid.tokens // TILES[0])
    tiles, rest = divmod(grid.video_tokens, TILES[1])
    segment = -(-(rest + grid.text_tokens) // 32) * 2  # steps of 32 keys, two key tiles each
    assert len(work) == blocks * len(numbers)
    full = grid.video_tokens // TILES[0]
    late = (blocks - full) * len(numbers)
    # first what lies past the full tiles, of all heads, the skipped one last of each round and free but for text
    rest_of_skipped = tiles + segment if grid.text_tokens else 0.0
    assert work[:late] == ([tiles + segment] * (len(numbers) - 1) + [rest_of_skipped]) * (blocks - full)
    # then the dense head, and at the end the skipped one; in all, what there is in the tables
    assert work[late:][:full] == [tiles + segment] * full and work[len(work) - full :] == [0.0] * full
    listed = sum(lists.kv_num_blocks[number, :full].sum().item() for number in numbers[1:])
    assert sum(work[late:]) == listed + segment * full * (len(numbers) - 1)


def test_smaller_programs_and_batches():
    lists, numbers = built(GRIDS[0], PATTERNS)
    whole, halves = (program_work(lists, numbers, rows=rows) for rows in (32, 16))
    assert len(halves) in (2 * len(whole), 2 * len(whole) - len(numbers))
    assert sorted(program_work(lists, numbers, batch=2, rows=32)) == sorted(whole * 2)


def test_routed_heads_count_what_they_will_keep():
    lists, (number,) = built(GRIDS[1], [Routed(0.3)])
    tiles, full = GRIDS[1].video_tokens // TILES[1], GRIDS[1].video_tokens // TILES[0]
    work = program_work(lists, [number], rows=TILES[0])
    segment = -(-(GRIDS[1].video_tokens % TILES[1]) // 32) * 2
    assert work[-full:] == [round(0.3 * tiles) + segment] * full


def test_makespan_is_greedy_in_launch_order():
    assert makespan([5, 1, 1, 1, 1, 1], 2) == 5
    assert makespan([1, 1, 1, 1, 1, 5], 2) == 7  # the heavy one last
    assert makespan([3], 4) == 3 and makespan([], 3) == 0
    with pytest.raises(ValueError, match="workers is 0"):
        makespan([1], 0)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_imbalance(grid):
    lists, numbers = built(grid, PATTERNS)
    assert imbalance(lists, numbers, 1) == 1
    work = program_work(lists, numbers)
    for workers in (2, 3, 7):
        found = imbalance(lists, numbers, workers)
        ideal = sum(work) / workers
        # list scheduling is never worse than the mean load and one whole program
        assert max(1, max(work) / ideal) <= found <= 1 + max(work) / ideal
    if not grid.text_tokens:
        assert imbalance(lists, numbers[:1], 3) == 1  # the skipped head alone: nothing to do


def test_results_of_another_command_stay(tmp_path, methods, monkeypatch):
    from benchmarks.report import results

    monkeypatch.setattr(results, "FOLDER", tmp_path)
    monkeypatch.setattr(results, "ROOT", tmp_path)
    names = []
    for command, value in (("a.py", 1), ("b.py --more", 2), ("a.py", 3)):
        monkeypatch.setattr(sys, "argv", command.split())
        names.append(results.save_results("kernels", [{"value": value}]))
    assert names[0] == names[2] != names[1]
    assert [json.loads((tmp_path / name).read_text())["rows"][0]["value"] for name in names[:2]] == [3, 2]

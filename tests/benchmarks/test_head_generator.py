"""Made heads are as sparse as asked for, of the kind asked for, and the measures they are fitted with measure that."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sparse_vdit.kernels.grid import TokenGrid
from tolerances import RELATIVE_L2, relative_l2

from benchmarks.kernels.kernel_shapes import Shape
from benchmarks.quality import calibrated_heads, error_time, head_generator, published_heads, yardstick_content
from benchmarks.quality.head_generator import Content, Head

GRID = TokenGrid(7, 11, 13, prefix=5, suffix=3)
STATIC, HEAVY = Content(0.0, 0.4), Content(0.6, 0.4)


def made(head: Head, content: Content, dtype: torch.dtype = torch.float32, head_dim: int = 64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return list(head_generator.make_head(GRID, head_dim, head, content, generator, dtype))


@pytest.mark.parametrize("content", [STATIC, HEAVY])
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("wanted", [0.03, 0.2, 0.6])
def test_heads_have_their_density_in_bf16(wanted: float, head_dim: int, content: Content) -> None:
    q, k, _ = made(Head(wanted, "cube"), content, torch.bfloat16, head_dim)
    assert q.shape == k.shape == (GRID.tokens, head_dim)
    assert head_generator.measured_density(GRID, q, k)[0] == pytest.approx(wanted, rel=0.1)


def test_density_is_counted_by_hand() -> None:
    rows = torch.tensor([[0.6, 0.3, 0.08, 0.02], [0.25, 0.25, 0.25, 0.25], [0.97, 0.01, 0.01, 0.01]])
    assert head_generator.density(rows.log()) == pytest.approx((3 + 4 + 1) / 12)


def test_more_queries_are_seen_where_they_differ_more() -> None:
    alike, different = torch.tensor([0.1, 0.11, 0.09]), torch.tensor([0.1, 0.3, 0.02])
    assert head_generator.enough_queries(alike) == 25  # (0.1 / 0.02)^2, the deviation being a tenth of the mean
    assert head_generator.enough_queries(different) > 1000
    grid, generator = TokenGrid(5, 23, 29), torch.Generator().manual_seed(5)
    seen = {}
    for content in (STATIC, HEAVY):
        q, k, _ = head_generator.make_head(grid, 64, Head(0.01, "cube"), content, generator, torch.float32)
        found, seen[content] = head_generator.measured_density(grid, q, k)
        assert found == pytest.approx(0.01, rel=0.06)  # two standard errors of two samples
    assert seen[STATIC] < seen[HEAVY] <= head_generator.MAX_QUERIES


@pytest.mark.parametrize("kind", head_generator.KINDS)
def test_kinds_limit_their_axes(kind: str) -> None:
    """Mass in the own frame, row and column of a head against that of one without structure."""
    q, k, _ = made(Head(0.3, kind), STATIC)
    axes = torch.stack(torch.meshgrid(*map(torch.arange, GRID.shape), indexing="ij")).flatten(1)
    video = slice(GRID.prefix, GRID.prefix + GRID.video_tokens)
    weights = (q[video] @ k[video].T * q.shape[1] ** -0.5).softmax(1)
    gains = []
    for axis in axes:
        own = axis[:, None] == axis
        gains.append(float((weights * own).sum(1).mean() / own.float().mean()))
    limits = head_generator.KINDS[kind]
    limited, free = ([gain for gain, limit in zip(gains, limits, strict=True) if (limit == 1) == on] for on in (1, 0))
    assert min(limited) > 2 and min(limited) > 1.5 * max(free, default=0)


@pytest.mark.parametrize("content", [STATIC, Content(0.3, 0.4), HEAVY])
def test_content_has_its_part_of_the_scores(content: Content) -> None:
    """On a video of many points of the smooth field: in a small one offsets tell much of the content too."""
    grid, generator = TokenGrid(5, 24, 28), torch.Generator().manual_seed(5)
    q, k, _ = head_generator.make_head(grid, 64, Head(0.2, "cube"), content, generator, torch.float32)
    share = yardstick_content.content_share(q @ k.T, yardstick_content.offset_numbers(grid.shape))
    # means of queries near the video's ends are no functions of offsets, and near places have like content
    assert share == pytest.approx(content.share, abs=0.12)


def test_offsets_are_numbered_alike_where_pairs_lie_alike() -> None:
    numbers = yardstick_content.offset_numbers((2, 3, 4))
    assert (
        numbers.shape == (24, 24)
        and numbers[0, 5] == numbers[1, 6] == numbers[12, 17]
        and numbers[0, 5] != numbers[5, 0]
    )
    assert len(numbers.unique()) == 3 * 5 * 7
    truth = torch.randn(105, generator=torch.Generator().manual_seed(1))
    scores = truth[numbers]
    assert yardstick_content.content_share(scores, numbers) > 0  # means of rows that end at the video's borders
    square = torch.randn(24, 24, generator=torch.Generator().manual_seed(2))
    assert yardstick_content.content_share(square, numbers) > 0.5


@pytest.mark.parametrize("alike", [0.0, 0.4, 0.8])
def test_values_of_neighbours_are_as_alike_as_asked(alike: float) -> None:
    v = made(Head(0.3, "frame"), Content(0.0, alike), head_dim=128)[2]
    video = v[GRID.prefix : GRID.prefix + GRID.video_tokens]
    assert yardstick_content.alike_neighbours(video, GRID.shape) == pytest.approx(alike, abs=0.12)


def test_heads_of_a_layer_differ_and_come_again() -> None:
    heads = [Head(0.1, "frame"), Head(0.1, "frame"), Head(0.5, "place")]
    device = torch.device("cpu")
    first, again = (
        head_generator.make_heads(Shape(GRID, 3, 64), heads, HEAVY, device, torch.float32) for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert first[0].shape == (1, GRID.tokens, 3, 64) and not torch.equal(first[2][0, :, 0], first[2][0, :, 1])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Published measurements as they might be: 2 steps of warm-up among 10, heads of all kinds."""
    generator = np.random.default_rng(3)
    densities = generator.uniform(0.01, 0.9, (1, 4, 6)).repeat(10, 0).astype(np.float32)
    densities[:2] = 1  # warm-up, which must not count
    arrays = dict.fromkeys(published_heads.RECORDED.values(), densities)
    np.savez(tmp_path / published_heads.DENSITIES, **arrays)
    windows = np.array([[1, 6, 10], [5, 3, 3], [5, 1, 10], [5, 6, 1], [3, 3, 5], [5, 6, 10]], dtype=np.int16)
    index = np.broadcast_to(np.arange(24, dtype=np.uint8).reshape(4, 6) % 6, (10, 4, 6)).copy()
    index[:3] = 5  # dense at first, which must not count
    np.savez(
        tmp_path / published_heads.WINDOWS,
        windows=windows,
        index=index,
        tile=np.array([6, 8, 8]),
        grid=np.array([30, 48, 80]),
    )
    return tmp_path


def test_windows_are_read_as_kinds(data: Path) -> None:
    kinds = published_heads.head_kinds(data)
    assert kinds[0].tolist() == ["frame", "place", "row", "column", "cube", "cube"]


def test_typical_heads_stand_for_all(data: Path) -> None:
    heads = published_heads.typical_heads(data, "wan14b_720p", 24)
    whole = published_heads.head_densities(data, "wan_14B_t2v").ravel()
    assert whole.max() < 0.95
    assert np.quantile([head.density for head in heads], 0.5) == pytest.approx(np.quantile(whole, 0.5), rel=0.05)
    ranked = published_heads.head_kinds(data).ravel()[whole.argsort(kind="stable")]
    assert [head.kind for head in heads] == ranked.tolist()
    with pytest.raises(ValueError, match="no data for 'other'"):
        published_heads.typical_heads(data, "other", 3)
    with pytest.raises(FileNotFoundError, match="--data names another folder"):
        published_heads.typical_heads(data / "empty", "wan14b_720p", 3)


@pytest.mark.parametrize("shape", published_heads.RECORDED)
def test_few_heads_stand_for_the_quantiles_of_a_model(shape: str) -> None:
    """Of the published data: as many heads as HunyuanVideo has in a layer do, eight do not."""

    def furthest(count: int) -> float:
        heads = published_heads.typical_heads(published_heads.FOLDER, shape, count)
        found = calibrated_heads.quantiles([head.density for head in heads])
        return max(abs(a / b - 1) for a, b in zip(found, wanted, strict=True))

    whole = published_heads.head_densities(published_heads.FOLDER, published_heads.RECORDED[shape])
    wanted = calibrated_heads.quantiles(whole.ravel().tolist())
    assert furthest(24) < 0.03 and furthest(whole.size) < 0.005 and furthest(8) > 0.08


def test_times_at_equal_error_lie_between_measured_points() -> None:
    points = [(1.0, 0.4), (2.0, 0.1), (4.0, 0.025)]
    assert error_time.time_at_error(points, 0.2) == pytest.approx(1.5)
    assert error_time.time_at_error(points, 0.1) == pytest.approx(2.0)
    assert error_time.time_at_error(points, 0.05) == pytest.approx(3.0)
    assert error_time.time_at_error(points, 0.5) == 1.0 and error_time.time_at_error(points, 0.01) is None


def test_the_script_measures_a_toy(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "out"
    monkeypatch.setattr(calibrated_heads, "ends", lambda: {"structure": STATIC, "content": HEAVY})
    monkeypatch.setattr(calibrated_heads.results, "FOLDER", calibrated_heads.results.FOLDER)
    options = ["measure", "--device", "cpu", "--tiny", "--data", str(data), "--folder", str(folder)]
    monkeypatch.setattr(sys, "argv", ["calibrated_heads.py", *options, "--densities", "0.4", "0.7"])
    calibrated_heads.main()
    result = error_time_result(folder)
    rows = {(row["content"], row["method"], row["density"]): row for row in result["rows"]}
    assert not [row for row in rows.values() if "skipped" in row]
    for content in ("structure", "content"):
        found = {
            name: [row for key, row in rows.items() if key[:2] == (content, name)] for name in calibrated_heads.ON_CPU
        }
        assert [len(found[name]) for name in calibrated_heads.ON_CPU] == [1, 2, 2]
        assert found["sdpa"][0]["rel_l2_dense"] < RELATIVE_L2[torch.float32]
        sparse = [row["rel_l2_dense"] for row in found["ours_torch"]]
        assert sparse[0] > 2 * sparse[1] > 0.002  # denser is nearer
    assert Image.open(next(folder.glob("*.png"))).width > 700
    goes_on(folder, options, result, monkeypatch)
    assert error_time.error_time_table(result).startswith(error_time.TOYS)
    assert error_time.error_time_table(None) == error_time.NOT_YET


def goes_on(folder: Path, options: list[str], result: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was left out for want of time, and densities that were not asked for before, are measured; no more."""
    left, late = result["rows"][-1], {"skipped": calibrated_heads.NO_TIME, "ms": None}
    short = {**result, "rows": [*result["rows"][:-1], {**left, **late}]}
    (folder / "short.json").write_text(json.dumps(short))
    told = ["calibrated_heads.py", *options, "--densities", "0.4", "0.7", "--continue", str(folder / "short.json")]
    monkeypatch.setattr(sys, "argv", told)
    calibrated_heads.main()
    (file,) = folder.glob("calibrated_heads-cpu-*-2.json")
    again = json.loads(file.read_text())["rows"]
    assert again[:-1] == result["rows"][:-1]
    assert again[-1]["rel_l2_dense"] == left["rel_l2_dense"] and again[-1]["ms"] > 0
    monkeypatch.setattr(sys, "argv", [*told[:-1], str(folder / "short.json"), "--minutes", "-1"])
    calibrated_heads.main()
    (file,) = folder.glob("calibrated_heads-cpu-*-3.json")
    assert json.loads(file.read_text())["rows"][-1]["skipped"] == calibrated_heads.NO_TIME


def test_the_table_of_made_heads_says_what_was_fitted() -> None:
    made_by = {"command": "python x.py", "device": "cpu", "date": "2026-01-01"}
    shares = [{"measure": "share", "heads": [0.05, 0.5]}, {"measure": "alike", "heads": [0.25, 0.375]}]
    row = {"shape": "wan14b_720p", "share": 0.0, "heads": 8, "queries": [256, 900], "published": [0.1], "made": [0.105]}
    fitted, found = {**made_by, "rows": shares}, {**made_by, "rows": [{**row, "worst_quantile": 0.05}]}
    table = error_time.verified_table(found, fitted)
    assert "| wan14b_720p, published | - | 0.1000 | - |" in table
    assert "| wan14b_720p, made | 0% | 0.1050 | 5.0% |" in table and "8 heads" in table and "(256 to 900)" in table
    assert "5% to 50%" in table and "0.25 to 0.38" in error_time.verified_table(None, fitted)


def error_time_result(folder: Path) -> dict:
    (file,) = folder.glob("calibrated_heads-cpu-*.json")
    return json.loads(file.read_text())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["measure", "--device", "cpu"], "--device cpu and --tiny go together"),
        (["verify", "--heads", "0"], "--prompts and --heads have to be at least 1"),
        (["measure", "--device", "cpu", "--tiny", "--densities", "1"], "--densities 1.0 is not above 0 and below 1"),
    ],
)
def test_wrong_arguments_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, options: list[str], says: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["calibrated_heads.py", *options])
    with pytest.raises(SystemExit, match="2"):
        calibrated_heads.arguments()
    assert says in capsys.readouterr().err.strip().splitlines()[-1]


def test_bumps_are_one_at_offset_zero_and_fall() -> None:
    features = head_generator.bump_features(40, 12, torch.device("cpu"))
    bump = (features @ features.T)[0]
    assert relative_l2((features @ features.T).diagonal(), torch.ones(40)) < RELATIVE_L2[torch.float32]
    assert bump[:4].diff().max() < 0 and bump[12:].abs().max() < 0.2

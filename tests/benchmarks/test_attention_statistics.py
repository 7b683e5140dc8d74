"""The benchmark that compares the small Wan's heads with real models': known heads give known figures."""

from types import SimpleNamespace

import pytest
import torch
from load_pack import ROOT
from sparse_vdit.kernels.grid import TokenGrid

from benchmarks.quality.attention_statistics import (
    README_GRID,
    HeadStatistics,
    coarse_map,
    density_row,
    kind_row,
    picture_file,
    smallest_share,
)
from benchmarks.report import tables

GRID = TokenGrid(9, 15, 17)


def heads() -> dict[str, torch.Tensor]:
    """Queries and keys (S, D), one for both, by the kind of the head they make."""
    generator = torch.Generator().manual_seed(0)

    def codes(number: int) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(number, 128, generator=generator), dim=1) * 20

    frame = torch.arange(GRID.tokens) // (15 * 17)
    place = torch.arange(GRID.tokens) % (15 * 17)
    return {
        "dense": torch.zeros(GRID.tokens, 128),
        "diagonal": codes(9)[frame],
        "multi_diagonal": codes(15 * 17)[place],
    }


@pytest.fixture(scope="module")
def observed() -> HeadStatistics:
    statistics = HeadStatistics(GRID)
    own = torch.stack([*heads().values()], 1)
    statistics.observe(0, own, own)
    statistics.observe(0, own, own)
    return statistics


def test_smallest_share() -> None:
    assert smallest_share(torch.full((2, 100), 0.01)).tolist() == pytest.approx([0.95, 0.95], abs=0.011)
    assert smallest_share(torch.eye(7)).tolist() == pytest.approx([1 / 7] * 7)
    assert smallest_share(torch.tensor([0.5, 0.3, 0.16, 0.04])).item() == 0.75


def test_known_heads_have_their_kinds_and_densities(observed: HeadStatistics) -> None:
    row = kind_row([observed, observed])
    assert row["heads"] == [*heads()]
    assert row["agreement"] == 1 and row["kinds"] == dict.fromkeys(heads(), 1)
    dense, diagonal, multi = density_row([observed, observed], "keys")["heads"]
    assert dense == pytest.approx(0.95, abs=0.01)
    assert diagonal == pytest.approx(0.95 / 9, abs=0.01)  # of one frame of nine
    assert multi == pytest.approx(1 / 255, abs=0.002)


def test_tiles_hold_more_than_keys_and_the_flat_order_suits_frames(observed: HeadStatistics) -> None:
    _, flat, _ = density_row([observed] * 2, "spatial")["heads"]
    _, deep, _ = density_row([observed] * 2, "spatiotemporal")["heads"]
    assert 0.95 / 9 < flat < 0.3 < deep


def seen(densities: list[float], kinds: list[str]) -> SimpleNamespace:
    """What one prompt shows of heads with these densities and kinds."""
    heads = [(0, head) for head in range(len(densities))]
    found = {"keys": dict(zip(heads, ([x] for x in densities), strict=True)),
             "kind": dict(zip(heads, ([x] for x in kinds), strict=True))}  # fmt: skip
    return SimpleNamespace(found=found)


def test_prompts_are_as_alike_as_their_heads_correlate() -> None:
    prompts = [seen(x, ["dense"] * 3) for x in ([0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [0.2, 0.3, 0.4])]
    assert density_row(prompts[::2], "keys")["correlation"] == pytest.approx(1)
    assert density_row(prompts[:2], "keys")["correlation"] == pytest.approx(-1)
    assert density_row(prompts, "keys")["correlation"] == pytest.approx((1 - 1 - 1) / 3, abs=1e-4)


def test_prompts_that_differ_in_a_kind_agree_less() -> None:
    prompts = [seen([0.1] * 2, kinds) for kinds in (["dense", "union"], ["dense", "union"], ["dense", "diagonal"])]
    row = kind_row(prompts)
    assert row["heads"] == ["dense", "union"] and row["agreement"] == pytest.approx(5 / 6, abs=1e-4)


def test_only_the_readmes_grid_makes_the_readmes_picture() -> None:
    assert f"--grid {' '.join(map(str, README_GRID))} " in tables.STATISTICS
    assert picture_file(README_GRID) == ROOT / "docs" / "images" / "attention.png"
    assert picture_file((13, 24, 28)) == ROOT / "docs" / "images" / "attention-13x24x28.png"


def test_maps_keep_all_the_attention() -> None:
    own = heads()["diagonal"]
    picture = coarse_map(own, own)
    torch.testing.assert_close(picture.sum(1), torch.ones(len(picture)))
    assert picture[0, 0] > 20 * picture[0, -1]

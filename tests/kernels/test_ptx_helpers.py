"""The kernels that prepare attention, executed by themselves where small calls do not reach all of their code."""

import pytest
import torch
from ptx.card import plugged
from ptx.errors import PtxError
from ptx.mutants import swap
from sparse_vdit.kernels.backends import compiled_backend
from sparse_vdit.kernels.backends.launcher import SELECT_BLOCK, Launch

FIRST, ROWS = 2, 3  # lists that come before, query tiles


def selected(scores: torch.Tensor, kept: list[int], **options: object) -> torch.Tensor:
    """Tiles (lists, rows, most kept) for scores (lists, rows, tiles), -1 where a list keeps fewer.

    Args:
        options: of `DriverLibrary`.
    """
    lists, most = len(scores), max(kept)
    columns = torch.full((lists * ROWS * most,), -1, dtype=torch.int16)
    starts = torch.zeros(FIRST + lists, ROWS + 1, dtype=torch.int32)
    starts[FIRST:, :ROWS] = torch.arange(lists * ROWS).view(lists, ROWS) * most
    counts = torch.zeros_like(starts)
    counts[FIRST:, :ROWS] = torch.tensor(kept)[:, None]
    arguments = (scores, columns, starts, counts, FIRST, ROWS + 1, scores.shape[2])
    with plugged((8, 0), **options):
        compiled_backend.through_driver(
            Launch("select_tiles", (ROWS, lists), arguments, {"BLOCK": SELECT_BLOCK}, warps=4)
        )
    return columns.view(lists, ROWS, most)


@pytest.mark.parametrize("tiles", [5, SELECT_BLOCK, 2 * SELECT_BLOCK + 77])
def test_the_largest_scores_are_selected(tiles):
    scores = torch.randn(2, ROWS, tiles, generator=torch.Generator().manual_seed(3))
    kept = [1, tiles * 2 // 3]
    for chosen, own, count in zip(selected(scores, kept), scores, kept, strict=True):
        best = own.topk(count, dim=-1).indices.sort(-1).values
        assert torch.equal(chosen[:, :count].long(), best)
        assert (chosen[:, count:] == -1).all()


@pytest.mark.parametrize("tiles", [70, SELECT_BLOCK + 70])
def test_the_first_of_equal_scores_are_selected(tiles):
    scores = torch.zeros(1, ROWS, tiles)
    scores[0, 1, tiles - 3] = 1
    scores[0, 2, ::2] = -1
    chosen = selected(scores, [9])[0].tolist()
    assert chosen == [[*range(9)], [*range(8), tiles - 3], [*range(1, 19, 2)]]


@pytest.mark.parametrize(
    "mutant",
    [
        swap(r"(shfl\.sync\.up\.b32\s+%r\d+, %r\d+), 2,", r"\1, 1,", None),
        swap(r"(xor\.b32\s+%r\d+, %r\d+), 2147483647;", r"\1, 0;"),
        swap(r"^\s*bar\.sync\s+0;", "", None),
    ],
    ids=["sums over other lanes", "negative scores in another order", "no barrier"],
)
def test_mutants_are_noticed(mutant):
    scores = torch.randn(1, ROWS, SELECT_BLOCK + 70, generator=torch.Generator().manual_seed(3))
    kept = scores.shape[2] * 2 // 3
    try:
        chosen = selected(scores, [kept], changed=mutant)[0].long()
    except PtxError as error:
        assert error.instruction is not None
    else:
        assert not torch.equal(chosen, scores[0].topk(kept, dim=-1).indices.sort(-1).values)

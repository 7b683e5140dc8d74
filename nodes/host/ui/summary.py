"""What a run did, in words and as JSON."""

from __future__ import annotations

from collections import Counter

from ..core import fallback
from ..core.fallback import Dense
from ..core.stats import CallCounts, RunStats, grid_name
from ..session.run import Run

MAX_GRIDS = 2  # in a report
MUCH = 0.25  # of the calls; what keeps more of them dense is worth a word


def report_line(run: Run | Dense) -> str:
    """The line that says what ran."""
    if isinstance(run, Dense):
        return f"Sparse-vDiT: everything runs dense: {run}"
    return stats_line(run.stats, run.policy.title, run.policy.summary(), run.policy.advice())


def stats_line(stats: RunStats, title: str = "", summary: str = "", advice: str = "") -> str:
    """The line of a run; `title`, `summary` and `advice` are the policy's."""
    total = stats.total()
    dense = total.self_attention()
    why = ", ".join(f"{name} {count}" for name, count in dense.most_common())
    what = ", ".join(filter(None, (title, grids_line(total))))
    text = "Sparse-vDiT: " + (f"{what}: " if what else "")
    text += f"{total.sparse} sparse / {sum(dense.values())} dense calls" + (f" ({why})" if why else "")
    if total.sparse:
        text += f", mean density {total.density_sum / total.sparse:.2f}, backend {stats.backend}"
        text += f", {1000 * stats.seconds:.0f} ms in sparse attention"
        much = hint_for_much(dense, total.calls())
        text += f"; much ran dense: {much}" if much else ""
    else:
        text += f"; nothing ran sparse: {advice or hint(dense)}"
    return "; ".join(filter(None, [text, summary, *stats.notes]))


def grids_line(total: CallCounts) -> str:
    """The token grids met, in words; empty when none was."""
    names = [grid_name(grid) for grid, _ in total.grids.most_common()]
    more = f" and {len(names) - MAX_GRIDS} others" if len(names) > MAX_GRIDS else ""
    return " and ".join(names[:MAX_GRIDS]) + more + (" tokens" if names else "")


def hint(dense: Counter[Dense]) -> str:
    """Why most likely nothing ran sparse, in words a user understands: the commonest reason, but the warm-up and blocks
    that no plan is about only where there is no other."""
    if not dense:
        return fallback.UNREACHED
    for last in (fallback.VACE_BLOCK, fallback.WARM_UP, fallback.MEASURED):
        dense = Counter({why: calls for why, calls in dense.items() if why != last}) or Counter({last: 1})
    likely = max(dense, key=dense.get)
    return likely.hint or likely.reason


def hint_for_much(dense: Counter[Dense], calls: int) -> str:
    """What helps against the commonest reason that nobody intended, where it keeps much of so many calls dense; empty
    where nothing does."""
    unintended = {why: count for why, count in dense.items() if not why.intended}
    likely = max(unintended, key=unintended.get, default=None)
    return likely.hint if likely is not None and unintended[likely] > MUCH * calls else ""


def detail(run: Run | Dense) -> dict:
    """All that is known of a run, for JSON."""
    known = {"report": report_line(run)}
    if isinstance(run, Dense):
        return {**known, "refusal": run.reason, "stopped": None, **RunStats().detail()}
    stopped = None if run.stopped is None else run.stopped.reason
    return {**known, "refusal": None, "stopped": stopped, **run.policy.detail(), **run.stats.detail()}

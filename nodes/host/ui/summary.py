"""What a run did, in words and as JSON: the verdict first."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ..core import fallback
from ..core.fallback import Dense
from ..core.stats import CallCounts, RunStats, grid_name
from ..session.call import Policy
from ..session.run import Run

MAX_GRIDS = 2  # in a report
MUCH = 0.25  # of the calls; what keeps more of them dense is worth a word
FASTER = 1.05  # times; what is less is not called faster
NOT_FASTER = "Not faster here: "


@dataclass(frozen=True)
class Report:
    """A run in words.

    Attributes:
        verdict: whether it was faster, on what plan, and how that is known.
        advice: the one other thing to know: trouble, what to try, how close the video should be to the dense one, or
            what stayed dense; may be empty.
        details: everything else; may be empty.
    """

    verdict: str
    advice: str = ""
    details: str = ""

    def __str__(self) -> str:
        """All of it in one line, for the log."""
        said = [_ended(text) for text in (self.verdict, self.advice) if text]
        return " ".join(filter(None, ["Sparse-vDiT:", *said, self.details]))  # which may end with a file's name


def report_of(run: Run | Dense) -> Report:
    """What to say of a run, or of the reason why all of it is dense."""
    if isinstance(run, Dense):
        return Report(NOT_FASTER + run.sentence, run.advice)
    return run_report(run.stats, run.policy)


def run_report(stats: RunStats, policy: Policy) -> Report:
    """What to say of a run that has these counts."""
    total, notes = stats.total(), list(stats.notes)
    dense = total.self_attention()
    if total.sparse:
        verdict = _verdict(total, policy)
        much = much_dense(dense, total.calls())
        trouble = notes.pop(0) if notes else ""
        lost = fallback.NOT_FASTER.advice if verdict.startswith(NOT_FASTER) else ""
        advice = trouble or much or lost or policy.remark or policy.expected or _by_reason(dense)
    else:
        why = policy.advice() or likely(dense)
        verdict = NOT_FASTER + why.sentence
        named = why in (fallback.UNREACHED, fallback.BACKEND_REFUSED)  # by the note: which node, or why the backend
        advice = notes.pop(0) if notes and named else why.advice
        much = ""
    more = [text for text in (much, policy.expected if total.sparse else "") if text != advice]
    rest = [_counts(stats, total, policy.title), *more, policy.summary(), *notes]
    return Report(verdict, advice, "; ".join(filter(None, rest)))


def _verdict(total: CallCounts, policy: Policy) -> str:
    """Of a run with sparse calls. A factor is of all its self-attention; where calls were not timed it is counted, and
    on devices whose sparse kernels are slow there is none."""
    calls, dense = total.calls(), sum(total.self_attention().values())
    measured = None if policy.tuner is None else policy.tuner.speedup(calls)
    slow = any(device.type == "cpu" for device in total.devices)
    slow = slow or any(name.startswith("torch") for name in total.backends)
    factor = measured or (None if slow else calls / max(dense + total.density_sum, 1e-9))
    how = "measured" if measured else "not timed" if slow else "expected"
    text = f"{total.sparse} of {calls} calls sparse at density {total.density_sum / total.sparse:.2f}"
    text += f" ({policy.plan_name}, {how})"
    if factor is None:
        return f"Sparse attention ran: {text}"
    return (f"{factor:.1f}x faster attention: " if factor >= FASTER else NOT_FASTER) + text


def _counts(stats: RunStats, total: CallCounts, title: str) -> str:
    """Calls by reason, on which sizes and by which backend."""
    dense = total.self_attention()
    what = ", ".join(filter(None, (title, grids_line(total))))
    text = (f"{what}: " if what else "") + f"{total.sparse} sparse / {sum(dense.values())} dense calls"
    why = ", ".join(f"{name} {count}" for name, count in dense.most_common())
    text += f" ({why})" if why else ""
    if total.sparse:
        text += f", backend {stats.backend}, {1000 * stats.seconds:.0f} ms in sparse attention"
    if stats.split:
        text += f"; sparse calls by device: {', '.join(f'{count} on {name}' for name, count in stats.split.items())}"
    return text


def _by_reason(dense: Counter[Dense]) -> str:
    why = ", ".join(str(name) if len(dense) == 1 else f"{count} {name}" for name, count in dense.most_common(2))
    return f"{sum(dense.values())} calls dense: {why}" if why else ""


def _ended(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def grids_line(total: CallCounts) -> str:
    """The token grids met, in words; empty when none was."""
    names = [grid_name(grid) for grid, _ in total.grids.most_common()]
    more = f" and {len(names) - MAX_GRIDS} others" if len(names) > MAX_GRIDS else ""
    return " and ".join(names[:MAX_GRIDS]) + more + (" tokens" if names else "")


def likely(dense: Counter[Dense]) -> Dense:
    """Why most likely nothing ran sparse: the commonest reason, but the dense start and blocks that no plan is about
    only where there is no other."""
    if not dense:
        return fallback.UNREACHED
    for last in (fallback.VACE_BLOCK, fallback.WARM_UP, fallback.MEASURED):
        dense = Counter({why: calls for why, calls in dense.items() if why != last}) or Counter({last: 1})
    return max(dense, key=dense.get)


def much_dense(dense: Counter[Dense], calls: int) -> str:
    """What helps against the commonest reason that nobody intended, where it keeps much of so many calls dense; empty
    where nothing does."""
    unintended = {why: count for why, count in dense.items() if not why.intended}
    most = max(unintended, key=unintended.get, default=None)
    if most is None or not most.advice or unintended[most] <= MUCH * calls:
        return ""
    return f"{unintended[most]} of {calls} calls dense: {most.sentence}. {most.advice}"


def detail(run: Run | Dense) -> dict:
    """All that is known of a run, for JSON."""
    known = {"report": str(report_of(run))}
    if isinstance(run, Dense):
        return {**known, "refusal": run.reason, "stopped": None, **RunStats().detail()}
    stopped = None if run.stopped is None else run.stopped.reason
    return {**known, "refusal": None, "stopped": stopped, **run.policy.detail(), **run.stats.detail()}

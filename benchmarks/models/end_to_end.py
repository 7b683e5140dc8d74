"""Whole models, side by side: one forward of ComfyUI's own model classes by every attention a user could pick.

Weights are random: the work is that of the real models, but attention is nearly uniform, so `rel_l2` says that a method
computes what it should, and nothing of quality (`calibrated_heads.py` is about that). Each method takes two forwards in
one run of ComfyUI's sampler, on the same noise and prompt. The second is timed; the first of this pack's counts as its
first call, that of others, which keep nothing for a run, is of a model of few blocks. Plans after a kernel's first one
take one forward alone, for which their lists are made ahead.
Attention's share is what is gone when self-attention gives its values back unchanged. `ours_sampler` is a whole
KSampler run as users have it, in which the pack times itself. Writes benchmarks/results/end_to_end-<device>-<date>.json
after every row, and a picture at the end.

    python -m benchmarks.models.end_to_end --models wan14b_480p cogvideox15
    python -m benchmarks.models.end_to_end --models hunyuan_720p --continue benchmarks/results/end_to_end-....json
    python -m benchmarks.models.end_to_end --estimate              # how long calls take, by guessed rates; needs no GPU
    python -m benchmarks.models.end_to_end --tiny --device cpu     # tries the script; its times mean nothing

Runs with the Python of a ComfyUI, which $COMFYUI_PATH names where it is not above this folder or in ~/comfy.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from pathlib import Path

import torch
from comfyui.installation import comfyui_path
from torch import Tensor

from benchmarks.models.comfyui_models import Probe, Sampling, build, layout_of, start
from benchmarks.models.end_to_end_figure import draw
from benchmarks.models.pack_methods import SHIPPED, dense_part
from benchmarks.models.projections import FEW, MANY, Row, compare, key
from benchmarks.models.whole_costs import COMPILING, estimate
from benchmarks.models.whole_methods import METHODS, REFERENCE
from benchmarks.models.whole_models import MODELS, TINY, WholeModel
from benchmarks.models.whole_targets import Method, MissingError, Target
from benchmarks.report import results
from benchmarks.report.result_files import NO_TIME, kept_rows

BENCHMARK = "end_to_end"
PLANS = (SHIPPED, "0.15", "0.25", "0.35")
SAMPLED_PLAN = "0.25"  # of the whole sampler run and of compiled models
SPARE = 1.2  # of a method's time by dense forwards: what has to be left for it to begin

Job = tuple[str, str | None]
"""Method and plan."""


def jobs(model: WholeModel, methods: list[str], plans: list[str]) -> list[Job]:
    """What to measure of a model, in order."""
    found: list[Job] = []
    for name in methods:
        method = METHODS[name]
        if method.only_compiled and not model.compiled:
            continue
        once = method.steps or method.only_compiled
        wanted = (SAMPLED_PLAN,) if method.planned and once else plans if method.planned else (None,)
        found += [(name, plan) for plan in wanted]
    return found


class Bench:
    """One model on a device, on which methods are measured one after the other."""

    def __init__(self, name: str, model: WholeModel, device: torch.device):
        self.model, self.device = model, device
        self.patcher = build(model, device)
        self.sampling = Sampling(model, device)
        self.family, self.layout = layout_of(self.patcher, model)
        frames, height, width = model.video
        self.known = {"model": name, "frames": frames, "height": height, "width": width}
        self.reference: Tensor | None = None
        self.ran: set[str] = set()  # methods whose kernels are warm

    def measure(self, name: str, plan: str | None) -> Row:
        """The row of one method with one plan, or why there is none."""
        row = {**self.known, "method": name, "plan": plan}
        try:
            return row | self._measured(name, plan)
        except MissingError as error:
            return row | {"skipped": str(error)}
        except Exception as error:  # other people's packages raise anything; the row says what
            return row | {"skipped": f"{type(error).__name__}: {error}".split("\n")[0][:200]}
        finally:
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _measured(self, name: str, plan: str | None) -> Row:
        method, again = METHODS[name], name in self.ran
        target = Target(self.patcher.clone(), self.model, self.device, self.family, self.layout, plan, again)
        probe = Probe(self.device, method.short_warmup, target.calls)
        probe.attach(target.patcher)
        method.attach(target)
        if method.steps:
            seconds = self.sampling.steps(target.patcher, method.steps)
            return {
                "steps": method.steps, "sampler_seconds": round(seconds, 4), "peak_bytes": max_of(probe.peaks),
                **told(target),
            }  # fmt: skip
        self.sampling.forwards(target.patcher, 1 if again else 2)
        said, layers = told(target), target.shape[0]
        if said.get("dense_calls") or (method.planned and not said["calls"]):
            raise MissingError(f"not all of it ran sparse: {said['report']}")
        if target.counted and said["calls"] != layers:
            raise MissingError(f"it computed self-attention of {said['calls']} of {layers} layers")
        self.ran.add(name)
        first, seconds = None if again or method.short_warmup else round(probe.seconds[0], 3), probe.seconds[-1]
        if name == REFERENCE:
            self.reference = probe.output
        return {
            "tokens": target.tokens, "forwards": self.model.forwards, "seconds_per_forward": round(seconds, 5),
            "seconds_per_step": round(self.model.forwards * seconds, 5),
            "first_call_seconds": first, "peak_bytes": probe.peaks[-1], "rel_l2": self._error(probe.output), **said,
        }  # fmt: skip

    def _error(self, output: Tensor) -> float | None:
        """||output - reference|| / ||reference||."""
        if self.reference is None:
            return None
        return float(f"{((output - self.reference).norm() / self.reference.norm()).item():.3g}")


def max_of(values: list[int | None]) -> int | None:
    """The largest, None where nothing was measured."""
    return max((value for value in values if value is not None), default=None)


def told(target: Target) -> Row:
    """What the pack's last run says, or how many self-attention calls went through a method of others."""
    if not target.runs:
        note = {} if target.note is None else {"note": target.note}
        return {"density": None, "calls": len(target.calls), **note}
    run = target.runs[-1]
    from sparse_vdit.nodes.host.core.stats import RunStats
    from sparse_vdit.nodes.host.session.run import Run
    from sparse_vdit.nodes.host.ui.summary import report_of

    stats = run.stats if isinstance(run, Run) else RunStats()
    total = stats.total()
    row = {
        "density": round(total.density_sum / total.sparse, 4) if total.sparse else None,
        "calls": total.sparse,
        "dense_calls": total.calls() - total.sparse,
        "kernels": sorted(stats.milliseconds),
        "report": str(report_of(run)),
    }
    if isinstance(run, Run):
        steps = {"dense_part": MANY, "dense_part_few": FEW}
        row |= {name: dense_part(run.policy.plan, target.patcher, count) for name, count in steps.items()}
    return row


def left(name: str, model: WholeModel, args: argparse.Namespace) -> list[Job]:
    """What is not measured of a model yet."""
    done = {key(row) for row in args.rows}
    return [job for job in jobs(model, args.methods, args.plans) if (name, *job) not in done]


def measure_model(name: str, model: WholeModel, args: argparse.Namespace, deadline: float) -> None:
    """Add the rows of a model that are still missing, saving after each."""
    todo, rows = left(name, model, args), args.rows
    if not todo:
        return
    late = time.monotonic() > deadline
    device = torch.device("cuda", 0) if args.device == "cuda" else torch.device("cpu")  # with a number, as in ComfyUI
    bench = None if late else Bench(name, model, device)
    dense = 0.0
    if bench is not None and (REFERENCE, None) not in todo:
        # for the errors of the others; its own row is there or was not asked for
        dense = bench.measure(REFERENCE, None).get("seconds_per_forward", 0.0)
    for method, plan in todo:
        if late or time.monotonic() + SPARE * most_seconds(METHODS[method], dense) > deadline:
            rows.append({"model": name, "method": method, "plan": plan, "skipped": NO_TIME})
        else:
            rows.append(bench.measure(method, plan))
        if method == REFERENCE:
            dense = rows[-1].get("seconds_per_forward", 0.0)
        compare(rows, MODELS | TINY)
        print(describe(rows[-1]), flush=True)
        args.file = results.save_results(BENCHMARK, rows, args.device)
    forget(bench)


def most_seconds(method: Method, dense: float) -> float:
    """What a method takes if it is no faster than dense attention, whose forward takes so many seconds; a sampler run
    also times dense attention."""
    forwards = method.steps + 1 if method.steps else 1 if method.short_warmup else 2
    return forwards * dense + COMPILING * method.only_compiled


def forget(bench: Bench | None) -> None:
    """Give a model's memory back."""
    if bench is None:
        return
    import comfy.model_management

    comfy.model_management.unload_all_models()
    bench.patcher = bench.reference = None
    gc.collect()
    comfy.model_management.soft_empty_cache()


def describe(row: Row) -> str:
    """One line of what was measured."""
    head = f"{row['model']:17} {row['method']:20} {row.get('plan') or '':8}"
    if "skipped" in row:
        return f"{head} skipped: {row['skipped']}"
    if "sampler_seconds" in row:
        return f"{head} {row['steps']} steps in {row['sampler_seconds']:.2f} s; {row.get('report', '')}"
    error, first = "-" if row["rel_l2"] is None else f"{row['rel_l2']:.1e}", row["first_call_seconds"]
    told = "" if first is None else f", first {first:.2f} s"
    return f"{head} {row['seconds_per_forward']:9.3f} s{told}, error {error}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--minutes", type=float, default=8.0, help="nothing begins that would end later")
    parser.add_argument("--models", nargs="+", choices=MODELS | TINY)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--plans", nargs="+", default=list(PLANS), help=f"`{SHIPPED}` and densities, default {PLANS}")
    parser.add_argument("--continue", dest="earlier", type=Path, help="result file whose rows are kept as they are")
    parser.add_argument("--estimate", action="store_true", help="measure nothing, say how long it would take")
    parser.add_argument("--tiny", action="store_true", help="toys instead of models, to try the script")
    parser.add_argument("--folder", type=Path, default=results.FOLDER, help="for the JSON and the picture")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available() and not args.estimate:
        parser.error("there is no GPU that torch can use; --tiny --device cpu tries the script")
    known = TINY if args.tiny else MODELS
    wrong = [name for name in args.models or () if name not in known]
    if wrong:
        parser.error(f"--models {wrong[0]} goes with{'out' * args.tiny} --tiny")
    if args.device == "cpu" and not args.tiny:
        parser.error("--device cpu goes with --tiny alone")
    for plan in args.plans:
        if plan != SHIPPED and not is_density(plan):
            parser.error(f"--plans {plan} is neither {SHIPPED} nor a density above 0 and below 1")
    if args.tiny and args.folder == results.FOLDER:
        args.folder = results.ROOT / "runs" / BENCHMARK  # a toy's figures are nothing to keep
    args.models = {name: known[name] for name in args.models or known}
    args.comfyui, args.file = comfyui_path(), None
    if args.comfyui is None and not args.estimate:
        parser.error("there is no ComfyUI above this folder or in ~/comfy: set COMFYUI_PATH to one")
    try:
        args.rows = kept_rows(args.earlier, BENCHMARK)
    except (OSError, ValueError) as error:
        parser.error(f"--continue: {error}")
    return args


def is_density(text: str) -> bool:
    """Whether a text is a number above 0 and below 1."""
    try:
        return 0 < float(text) < 1
    except ValueError:
        return False


def main() -> None:
    begin, args = time.monotonic(), arguments()
    if args.estimate:
        print(estimate({name: (model, left(name, model, args)) for name, model in args.models.items()}))
        return
    start(args.comfyui, args.device)
    args.folder.mkdir(parents=True, exist_ok=True)
    results.FOLDER = results.ROOT / os.path.relpath(args.folder, results.ROOT)
    for name, model in args.models.items():
        measure_model(name, model, args, begin + 60 * args.minutes)
    if args.file is None:
        sys.exit("nothing was left to measure")
    file = (results.ROOT / args.file).resolve()
    draw(args.rows, file.with_suffix(".png"))
    print("Written to", file)


if __name__ == "__main__":
    main()

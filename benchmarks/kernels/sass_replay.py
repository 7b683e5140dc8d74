"""Replays a loop of SASS on one multiprocessor and counts its cycles: in-order warps, units, scoreboards and barriers.

Each of four schedulers issues at most one instruction in a clock. It stays with its warp while the control codes say
so and else takes the youngest that can issue (arXiv 2503.20481). Results come after fixed latencies. There is no DRAM,
no limit of power, and what L2 gives on average is not counted here (`sass_model.py`).
"""

from __future__ import annotations

import math
import re
from collections import defaultdict, deque
from dataclasses import dataclass, field

from benchmarks.kernels import sass_cards as hardware
from benchmarks.kernels.sass_cards import QUEUES, SCHEDULERS, Card
from benchmarks.kernels.sass_units import Step

PASSES = 10  # of the loop by each warp
FILLING = 3  # of them fill the pipeline and are not counted
APART = 487  # cycles between the starts of two programs: any number that is no multiple of a loop's cycles


@dataclass(eq=False, slots=True)
class Warp:
    """One warp: where it is, and until when what it started takes."""

    program: int
    leads: bool  # issues what one warp does for its program
    ready: float
    place: int = 0
    passes: int = 0
    boards: list[float] = field(default_factory=lambda: [0.0] * 6)
    copied: float = 0.0  # when the last of its copies is there
    copies: list[float] = field(default_factory=list)  # groups of them
    product: float = 0.0  # when its last asynchronous matrix product is done
    products: list[float] = field(default_factory=list)  # groups of them
    at_barrier: bool = False


class Scheduler:
    """A quarter of a multiprocessor: its warps and units."""

    def __init__(self, warps: list[Warp]) -> None:
        self.warps = warps[::-1]  # youngest first
        self.last: Warp | None = None
        self.free: defaultdict[str, float] = defaultdict(float)  # when each unit is free
        self.halves = [0.0, 0.0]  # of the unit for floats
        self.queues: dict[str, deque[float]] = {unit: deque() for unit in QUEUES}

    def order(self) -> list[Warp]:
        """Its warps, the first choice first."""
        if self.last is None:
            return self.warps
        return [self.last, *(warp for warp in self.warps if warp is not self.last)]


class Replay:
    """One multiprocessor that runs `programs` programs of `warps` warps."""

    def __init__(self, found: list[Step | str], card: Card, warps: int, programs: int) -> None:
        self.steps = [item for item in found if isinstance(item, Step)]
        self.jumps = _jumps(found)
        self.commits = _commits(self.steps)
        self.loads = sum(item.instruction.base == "UTMALDG" for item in self.steps)
        self.one_half = card.lanes == 64
        self.in_program = warps
        self.warps = [
            Warp(program, number == 0, float(program * APART)) for program in range(programs) for number in range(warps)
        ]
        quarter = [[w for i, w in enumerate(self.warps) if i % warps % SCHEDULERS == s] for s in range(SCHEDULERS)]
        self.schedulers = [Scheduler(found) for found in quarter]
        self.now = 0
        self.shared_free = self.l2_free = self.tcgen05_free = 0.0
        self.arrivals: defaultdict[int, list[float]] = defaultdict(list)  # of tensor copies, by program
        self.committed: defaultdict[tuple[int, int], list[float]] = defaultdict(list)  # by program and place
        self.waiting: defaultdict[int, list[Warp]] = defaultdict(list)  # at a program's barrier
        self.marks: list[int] = []  # when a warp ended a pass

    def cycles(self) -> float:
        """Of the multiprocessor for one pass of one program.

        Raises:
            RuntimeError: every warp waits for what never comes, so the loop was not understood.
        """
        while len(self.marks) < PASSES * len(self.warps):
            following = [self._turn(scheduler) for scheduler in self.schedulers]
            soonest = min(following)
            if soonest == math.inf:
                raise RuntimeError("no warp of the loop can go on")
            self.now = max(self.now + 1, math.ceil(soonest))
        first, last = FILLING * len(self.warps) - 1, (PASSES - 1) * len(self.warps) - 1
        return (self.marks[last] - self.marks[first]) / (last - first) * self.in_program

    def _turn(self, scheduler: Scheduler) -> float:
        """Issue an instruction if one can go; when to look again."""
        soonest = math.inf
        for warp in scheduler.order():
            if warp.at_barrier:
                continue
            at = self._ready_at(scheduler, warp)
            if at <= self.now:
                self._issue(scheduler, warp)
                return self.now
            soonest = min(soonest, at)
        return soonest

    def _ready_at(self, scheduler: Scheduler, warp: Warp) -> float:
        """When a warp can issue its next instruction, as far as is known now."""
        if warp.ready > self.now:
            return warp.ready
        item = self.steps[warp.place]
        boards = max((warp.boards[board] for board in item.instruction.waits), default=0.0)
        if boards > self.now:
            return boards
        free = self._free_at(scheduler, item.unit)
        return free if free > self.now else self._condition(warp, item)

    def _free_at(self, scheduler: Scheduler, unit: str) -> float:
        if unit in QUEUES:
            queue = scheduler.queues[unit]
            while queue and queue[0] <= self.now:
                queue.popleft()
            return queue[0] if len(queue) >= QUEUES[unit] else 0.0
        if unit == "fma" and not self.one_half:
            return min(scheduler.halves)
        if unit in ("fma", "fma_half"):
            return scheduler.halves[0]
        return scheduler.free[unit] if unit in ("matrix", "alu", "uniform") else 0.0

    def _condition(self, warp: Warp, item: Step) -> float:
        """When what an instruction itself waits for is there."""
        name = item.instruction.name
        if name.startswith("DEPBAR"):
            return _group(warp.copies, _number(item, r"SB0, (0x[0-9a-f]+)"))
        if name.startswith("WARPGROUP.DEPBAR"):
            return _group(warp.products, _number(item, r"gsb0, (0x[0-9a-f]+)"))
        if not name.startswith("SYNCS.PHASECHK"):
            return 0.0
        if warp.place not in self.commits:  # a copy, which was started one pass ahead
            return _group(self.arrivals[warp.program], self.loads)
        place, back = self.commits[warp.place]
        number, done = warp.passes - back, self.committed[warp.program, place]
        if number >= len(done):
            return math.inf  # not started yet
        return done[number] if number >= 0 else 0.0

    def _issue(self, scheduler: Scheduler, warp: Warp) -> None:
        item = self.steps[warp.place]
        instruction = item.instruction
        scheduler.last = warp if instruction.keep else None
        warp.ready = self.now + max(1, instruction.stall)
        read, done = self._start(scheduler, warp, item)
        self._synchronize(warp, item)
        for board, at in ((instruction.sets_done, done), (instruction.sets_read, read)):
            if board < len(warp.boards):
                warp.boards[board] = max(warp.boards[board], at)
        self._advance(warp)

    def _start(self, scheduler: Scheduler, warp: Warp, item: Step) -> tuple[float, float]:
        """Put an instruction on its unit; when its operands were read, and when its result is there."""
        now, unit, free = self.now, item.unit, scheduler.free
        if unit == "shared":
            return self._start_shared(scheduler, warp, item)
        if unit in ("wgmma", "tcgen05"):
            return self._start_asynchronous(scheduler, warp, item)
        if unit in ("special", "tensor_memory"):
            start = max(now, free[unit])
            free[unit] = start + item.cost
            if unit == "special":
                scheduler.queues[unit].append(start)
            return start + (6 if unit == "special" else item.cost), start + item.cost + item.latency
        if unit in ("fma", "fma_half"):
            half = 1 if unit == "fma" and not self.one_half and scheduler.halves[0] >= scheduler.halves[1] else 0
            scheduler.halves[half] = now + item.cost * (2 if unit == "fma" and not self.one_half else 1)
        elif unit != "control":
            free[unit] = max(now, free[unit]) + item.cost
        return now + 1, now + max(1, item.latency)

    def _start_shared(self, scheduler: Scheduler, warp: Warp, item: Step) -> tuple[float, float]:
        start = max(self.now + 2, self.shared_free)
        by_program = item.instruction.base == "UTMALDG"
        self.shared_free = start + (1 if by_program else item.cost)
        scheduler.queues["shared"].append(start)
        done = start + item.cost + item.latency
        if item.copied and (warp.leads or not by_program):
            self.l2_free = max(self.l2_free, start) + item.copied / hardware.L2_BURST
            there = self.l2_free + item.latency
            if by_program:
                self.shared_free += item.cost
                self.arrivals[warp.program].append(there)
            else:
                warp.copied = done = max(warp.copied, there)
        return start + 8, done

    def _start_asynchronous(self, scheduler: Scheduler, warp: Warp, item: Step) -> tuple[float, float]:
        if item.unit == "tcgen05":
            start = max(self.now + 8, self.tcgen05_free)
            self.tcgen05_free = start + item.cost
            warp.product = self.tcgen05_free + item.latency
            return self.now + 1, self.now + 1
        start = max(self.now + 4, scheduler.free["wgmma"])
        scheduler.free["wgmma"] = start + item.cost
        scheduler.queues["wgmma"].append(start)
        self.shared_free = max(self.shared_free, start) + item.shared / SCHEDULERS
        warp.product = start + item.cost + item.latency
        if "gsb0" in item.instruction.text:
            warp.products.append(warp.product)
        return start + item.cost, self.now + 1

    def _synchronize(self, warp: Warp, item: Step) -> None:
        name = item.instruction.name
        if name.startswith("LDGDEPBAR"):
            warp.copies.append(warp.copied)
        elif name.startswith("UTCBAR"):
            self.committed[warp.program, warp.place].append(warp.product or self.now)
        elif name.startswith("MEMBAR"):
            warp.ready = max(warp.ready, self.now + hardware.FENCE)
        elif name.startswith("BAR.SYNC"):
            warp.at_barrier = True
            here = self.waiting[warp.program]
            here.append(warp)
            if len(here) == self.in_program:
                for other in here:
                    other.at_barrier = False
                    other.ready = max(other.ready, self.now + hardware.BARRIER)
                here.clear()

    def _advance(self, warp: Warp) -> None:
        """Go to the next instruction. Forward branches skip what one warp does for its program; other backward ones
        than the loop's own are waits, which scoreboards and conditions stand for."""
        place, target = warp.place + 1, self.jumps.get(warp.place)
        if target is not None and (target <= warp.place or not warp.leads):
            place = target if target > warp.place else place
            if target > warp.place or place == len(self.steps):
                warp.ready = max(warp.ready, self.now + hardware.BRANCH)
        if place == len(self.steps):
            place = 0
            warp.passes += 1
            self.marks.append(self.now)
        warp.place = place


def _group(groups: list[float], left: int) -> float:
    """When at most `left` of the groups that were started are still under way."""
    return groups[len(groups) - left - 1] if len(groups) > left else 0.0


def _number(item: Step, pattern: str) -> int:
    found = re.search(pattern, item.instruction.text)
    return int(found[1], 16) if found else 0


def _jumps(found: list[Step | str]) -> dict[int, int]:
    """Place of each branch and where it goes, for those that stay in the loop."""
    labels, branches, place = {}, {}, 0
    for item in found:
        if isinstance(item, str):
            labels[item] = place
            continue
        if item.instruction.target:
            branches[place] = item.instruction.target
        place += 1
    return {at: labels[target] for at, target in branches.items() if target in labels}


def _commits(items: list[Step]) -> dict[int, tuple[int, int]]:
    """For each wait for an mbarrier, where tcgen05 commits to it, and whether in the pass before: the barrier's own
    commit, else the last one before the wait, else the last of the loop."""
    places = [(k, re.search(r"\[([^\],]+)", s.instruction.text)[1]) for k, s in enumerate(items) if _is(s, "UTCBAR")]
    known = {}
    for k, item in enumerate(items):
        if places and _is(item, "SYNCS.PHASECHK"):
            name = re.search(r"\[([^\]]+)\]", item.instruction.text)[1]
            same = [place for place, barrier in places if barrier == name]
            before = [place for place, _ in places if place < k]
            place = (same or before or [places[-1][0]])[-1]
            known[k] = place, int(place >= k)
    return known


def _is(item: Step, name: str) -> bool:
    return item.instruction.name.startswith(name)

"""Plans whose heads the browser may ask pictures of, by a token: those that a node made and that no file holds."""

from __future__ import annotations

import threading
import uuid
from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor

from ....plans.plan.plan import Plan

MOST = 6  # maps of 40 x 40 heads take 8 MB


@dataclass(frozen=True)
class Pictured:
    """A plan and what its heads attend.

    Attributes:
        plan: that runs.
        name: under which it was loaded; beside a listed plan a profile may lie that has maps.
        maps: of its profile (`Profile.maps`), None where they are not at hand.
    """

    plan: Plan
    name: str
    maps: Tensor | None


class PicturedPlans:
    """The latest of them."""

    def __init__(self, most: int = MOST):
        self.most = most
        self._kept: OrderedDict[str, Pictured] = OrderedDict()
        self._lock = threading.Lock()  # nodes run in another thread than requests are answered in

    def keep(self, plan: Plan, name: str = "", maps: Tensor | None = None) -> str:
        """A token for this very plan; maps that it was kept with before stay with it."""
        with self._lock:
            token = next((token for token, one in self._kept.items() if one.plan is plan), None) or uuid.uuid4().hex
            known = self._kept.pop(token, None)
            maps = known.maps if maps is None and known is not None else maps
            self._kept[token] = Pictured(plan, name, maps)
            while len(self._kept) > self.most:
                self._kept.popitem(last=False)
            return token

    def get(self, token: str) -> Pictured | None:
        """What was kept under a token, None where it was forgotten since."""
        with self._lock:
            return self._kept.get(token)


pictured_plans = PicturedPlans()
"""Those of this server."""

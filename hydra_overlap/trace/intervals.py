"""Arithmetic of time spans, in whole nanoseconds: what many spans cover together, and what of one set another covers.

Spans are half open, [start, end), in two arrays of int64. What a set covers is kept as disjoint spans in order of time, so
any question about it is a binary search.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.int64]  # nanoseconds


@dataclass(frozen=True)
class Spans:
    """Disjoint spans in order of time, of which no two touch. Build it with `union`."""

    starts: Times
    ends: Times

    @cached_property
    def _before(self) -> Times:
        """What the spans in front of each cover, and at the end what all of them cover."""
        return np.concatenate(([0], np.cumsum(self.ends - self.starts)))

    @property
    def length(self) -> int:
        """Nanoseconds that are covered."""
        return int(self._before[-1])

    def covered_until(self, times: Times) -> Times:
        """Nanoseconds that are covered before each of the times."""
        number = np.searchsorted(self.starts, times, side="right")  # spans that began by then
        last = np.maximum(number - 1, 0)
        inside = np.minimum(times, self.ends[last]) - self.starts[last] if len(self.starts) else np.zeros_like(times)
        before = self._before[last] + inside
        return np.where(number > 0, before, 0)

    def shared_with(self, other: "Spans") -> int:
        """Nanoseconds that both cover."""
        return int((other.covered_until(self.ends) - other.covered_until(self.starts)).sum())

    def within(self, start: int, end: int) -> "Spans":
        """What lies in [start, end)."""
        return union(np.clip(self.starts, start, end), np.clip(self.ends, start, end))


def union(starts: Times, ends: Times) -> Spans:
    """What spans cover together; those that touch become one, and empty ones are left out."""
    kept = ends > starts
    starts, ends = starts[kept], ends[kept]
    order = np.argsort(starts, kind="stable")
    starts, reach = starts[order], np.maximum.accumulate(ends[order]) if len(order) else ends[order]
    first = np.ones(len(starts), bool)
    first[1:] = starts[1:] > reach[:-1]
    last = np.append(first[1:], True)[: len(starts)]
    return Spans(starts[first], reach[last])


def tails(starts: Times, ends: Times, compute: Spans) -> Spans:
    """Of every span the part at its end that no compute covers, if compute began again later: what the compute waited for.

    A span that ends under compute has none, and neither has one after which nothing computes.
    """
    following = np.searchsorted(compute.starts, ends, side="left")  # the compute that begins at the end or after it
    begun = following - 1
    until = compute.ends[np.maximum(begun, 0)] if len(compute.starts) else ends
    free = np.where(begun >= 0, until, np.iinfo(np.int64).min)  # from when on nothing computed
    waited = (following < len(compute.starts)) & (free < ends)
    return union(np.maximum(starts, free)[waited], ends[waited])

"""Near misses: `did you mean`.

A word is a misspelling of a known one only if it can have been meant as that: letters may be swapped, missing or doubled, an
upper case or a `-` does not count, but a number says what is meant (tp3 is not tp8, fp4 is not fp8), and so does a short name
(pp is not tp) and each word of a compound one (num_buckets is not bucket_size).
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from itertools import zip_longest

MOST = 8  # names offered where several fit


def folded(word: str) -> str:
    """`word` in lower case, with `_` for `-` and blanks: how names are compared."""
    return re.sub(r"[-\s]", "_", word.strip()).casefold()


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` is a misspelling of, or None."""
    said = folded(word)
    best: tuple[int, str] | None = None
    for name in known:
        wrong = _mistakes(said, folded(name))
        if wrong is not None and (best is None or wrong < best[0]):
            best = (wrong, name)
    return best[1] if best else None


def likely(word: str, known: Iterable[str], most: int = MOST) -> tuple[str, ...]:
    """What `word` may stand for: the name that it misspells, else up to `most` names of which it is the start or a part."""
    known = tuple(known)
    one = nearest(word, known)
    if one is not None:
        return (one,)
    said = folded(word)
    if not said:
        return ()
    starts = [name for name in known if folded(name).startswith(said)]
    words = set(_words(said))
    parts = [name for name in known if name not in starts and words <= set(_words(folded(name)))]
    return tuple([*starts, *parts][:most])


def siblings(word: str, known: Iterable[str], most: int = MOST) -> tuple[str, ...]:
    """Known names that differ from `word` in their numbers alone: tp2_h100 and tp8_h100 for tp3_h100. None of them is meant."""
    letters = [part for part in _words(folded(word)) if not part.isdigit()]
    alike = [name for name in known if letters == [part for part in _words(folded(name)) if not part.isdigit()]]
    return tuple(alike[:most]) if letters else ()


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` (did you mean X?)`, or nothing."""
    match = nearest(word, known)
    return f" (did you mean {match}?)" if match else ""


@lru_cache(maxsize=4096)
def _words(name: str) -> tuple[str, ...]:
    """`tp4_h100` -> tp, 4, h, 100: runs of letters, and numbers."""
    return tuple(re.findall(r"\d+|[^\W\d_]+", name))


def _mistakes(said: str, name: str) -> int | None:
    """Slips between two folded names; None if they are different names."""
    if said == name:
        return 0
    mine, theirs = _words(_spoken(said)), _words(_spoken(name))
    if not mine or not theirs or not _same_numbers(mine, theirs):
        return None
    letters = [[word for word in words if not word.isdigit()] for words in (mine, theirs)]
    if len(letters[0]) != len(letters[1]):  # a forgotten or an additional _
        joined = "".join(letters[0]), "".join(letters[1])
        return 1 if joined[0] == joined[1] else None
    total = 0
    for one, other in zip_longest(*letters, fillvalue=""):
        slips = _slips(one, other, _allowed(one, other))
        if slips is None:
            return None
        total += slips
    return total + (mine != theirs and total == 0)


def _spoken(name: str) -> str:
    """all2all -> alltoall: a 2 between letters is no number."""
    return re.sub(r"(?<=[a-z])2(?=[a-z])", "to", name)


def _same_numbers(mine: Iterable[str], theirs: Iterable[str]) -> bool:
    """Whether the numbers are the same, but for a slip in a long one: digits swapped (8129), the last one missing (h10)."""
    pairs = list(zip_longest(filter(str.isdigit, mine), filter(str.isdigit, theirs), fillvalue=""))
    return all(a == b or (len(a) > 1 and (sorted(a) == sorted(b) or b[:-1] == a)) for a, b in pairs)


def _allowed(one: str, other: str) -> int:
    """Slips that a word of this length may have: none in a short name, which another letter makes another name."""
    length = max(len(one), len(other))
    return 0 if length <= 2 else 1 if length <= 5 else 2 if length <= 9 else 3


def _slips(one: str, other: str, most: int) -> int | None:
    """Letters added, left out, exchanged or swapped with their neighbour; None if more than `most`. `len` is short for `length`."""
    if min(len(one), len(other)) > 2 and (one.startswith(other) or other.startswith(one)):
        return min(1, abs(len(one) - len(other)))
    if abs(len(one) - len(other)) > most:
        return None
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        before, above, row = row, before, [i]
        for j, b in enumerate(other, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                cost = min(cost, above[j - 2] + 1)
            row.append(cost)
    return row[-1] if row[-1] <= most else None

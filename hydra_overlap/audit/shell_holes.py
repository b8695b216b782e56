"""What the text of a script does not tell, inside the text that it does tell.

A hole is one character of a private plane of Unicode that stands in a value for what only the run knows: it can be joined,
split and stored as text, and what it stands for is looked up here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

FIRST, LAST = 0xF0000, 0xFFFFD  # Supplementary Private Use Area-A
MOST = 20_000  # holes of one script


class Word(str):
    """A word of a command; what is not known stands in it as the script spells it, with its `$`.

    known: whether all of it is. open: spellings that may add words or none (`$EXTRA`, `"$@"`), if the word is only that.
    filled: whether such a one surely holds something (`"${A[@]}"` of a sourced file). defaults: variables -> the values that
    stand in it only because nothing else was said (`${NODES:-1}`).
    """

    known: bool = True
    open: str = ""
    filled: bool = False
    defaults: dict[str, str]


@dataclass(frozen=True)
class Hole:
    """spelling: as the script has it. filled: whether it surely holds something. why: for a reader.

    branches: where the text tells what it may be, the condition's number -> and its value for each branch.
    """

    spelling: str
    filled: bool = False
    why: str = ""
    condition: int | None = None
    branches: tuple[str, ...] = ()


class Holes:
    """The holes of one script."""

    def __init__(self) -> None:
        self._holes: list[Hole] = []
        self._known: dict[Hole, str] = {}

    def put(self, hole: Hole) -> str:
        """The character for it. Raises ValueError if there are too many."""
        if hole not in self._known:
            if len(self._holes) >= MOST:
                raise ValueError(f"more than {MOST} of its values are known only where it runs")
            self._known[hole] = chr(FIRST + len(self._holes))
            self._holes.append(hole)
        return self._known[hole]

    def unknown(self, spelling: str, *, filled: bool = False, why: str = "") -> str:
        """The character for what is spelt so."""
        return self.put(Hole(spelling, filled, why))

    def of(self, text: str) -> Iterable[Hole]:
        """Those in a text, in its order."""
        return (self[character] for character in text if has(character))

    def __getitem__(self, character: str) -> Hole:
        return self._holes[ord(character) - FIRST]

    def spelt(self, text: str) -> str:
        """The text as the script spells it."""
        return text if text.isascii() else "".join(self[one].spelling if has(one) else one for one in text)

    def word(self, text: str, defaults: dict[str, str], *, several: bool = False) -> Word:
        """A word of a command. several: whether a hole in it may be more words than one, or none."""
        word = Word(self.spelt(text))
        word.defaults = defaults
        holes = list(self.of(text)) if not text.isascii() else []
        word.known = not holes
        if len(text) == 1 and holes and several:
            word.open, word.filled = holes[0].spelling, holes[0].filled
        return word

    def chosen(self, text: str, choice: dict[int, int]) -> str:
        """The text in which each condition of `choice` takes the branch of that number."""
        if text.isascii():
            return text
        parts = []
        for one in text:
            hole = self[one] if has(one) else None
            if hole is not None and hole.condition in choice:
                parts.append(self.chosen(hole.branches[choice[hole.condition]], choice))
            else:
                parts.append(one)
        return "".join(parts)

    def conditions(self, texts: Iterable[str]) -> dict[int, int]:
        """Condition -> how many branches it has, of those that the texts hang on."""
        found: dict[int, int] = {}
        todo: list[str] = [text for text in texts if not text.isascii()]
        seen: set[str] = set()
        while todo:
            for one in todo.pop():
                if has(one) and one not in seen:
                    seen.add(one)
                    hole = self[one]
                    if hole.condition is not None:
                        found[hole.condition] = len(hole.branches)
                        todo += hole.branches
        return found


def has(text: str) -> bool:
    """Whether a hole is in the text."""
    return not text.isascii() and any(FIRST <= ord(one) <= LAST for one in text)


def differing(values: Sequence[str], *, apart: bool) -> tuple[str, tuple[str, ...]]:
    """(what the values begin with alike, the rest of each). apart: cut only between words."""
    shortest = min(values, key=len)
    end = next((i for i, one in enumerate(shortest) if any(value[i] != one for value in values)), len(shortest))
    if apart and any(value[end : end + 1].strip() for value in values):
        while end and not shortest[end - 1].isspace():
            end -= 1
    return shortest[:end], tuple(value[end:] for value in values)

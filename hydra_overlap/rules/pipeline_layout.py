"""megatron-core's pipeline layouts, `Et|(tt|)*30L`: which layers every model chunk holds, written down one by one.

The syntax is that of `PipelineParallelLayerLayout.parse_str_to_list`, the same from megatron-core 0.16.1 to 0.19.2
(transformer/pipeline_parallel_layer_layout.py:283-321). It is read here again because its module loads torch, which no composition
does; a test holds both to each other.
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from ..schema.keys import PIPELINE_LAYOUT, PP
from ._base import Config

EMBEDDING, LAYER, MTP_LAYER, LOSS = "E", "t", "m", "L"
NAMES = {"embedding": EMBEDDING, "decoder": LAYER, "mtp": MTP_LAYER, "loss": LOSS}
LONGEST = 4096  # characters as typed; no published layout has more than 200
LARGEST = 100_000  # layers and bars once repetitions are written out, many times those of any model
_REPEATED = (re.compile(r"\(([^)]+)\)\*(\d+)"), re.compile(r"(.)\*(\d+)"))


class LayoutError(ValueError):
    """A text that megatron-core cannot read as a layout; the message says why."""


@lru_cache(maxsize=256)
def stages_of(text: str) -> tuple[str, ...]:
    """The letters of every pipeline stage, in the order that a token passes them: `Et|(t|)*2L` -> Et, t, t, L.

    Raises LayoutError.
    """
    if len(text) > LONGEST:
        raise LayoutError(f"It is longer than {LONGEST:,} characters.")
    written = text.replace(",", "")
    for pattern in _REPEATED:
        written = _unrolled(pattern, written)
    unknown = next((letter for letter in written if letter not in "EtmL|"), None)
    if unknown is not None:
        raise LayoutError(
            f"{unknown!r} is none of E (embedding), t (layer), m (multi-token prediction), L (loss), and |."
        )
    return tuple(written.split("|"))


def _unrolled(pattern: re.Pattern[str], text: str) -> str:
    """Every match written out as often as it says; refused before it is written where that is too long."""
    parts: list[str] = []
    size = at = 0
    for found in pattern.finditer(text):
        times = int(found[2][:9])
        size += len(found[1]) * times
        if size > LARGEST or len(found[2]) > 9:
            raise LayoutError(f"Written out, it has more than {LARGEST:,} layers and stages.")
        parts += [text[at : found.start()], found[1] * times]
        at = found.end()
    return "".join([*parts, text[at:]])


def text_of(stages: Iterable[Sequence[str]]) -> str:
    """A list of lists of layer names, as Megatron-Bridge's recipes write layouts, in the syntax of one text. Raises LayoutError."""
    return "|".join("".join(_letter(name) for name in stage) for stage in stages)


def _letter(name: str) -> str:
    known = NAMES.get(str(name).strip().lower())
    if known is None:
        raise LayoutError(f"{name} is none of {', '.join(NAMES)}.")
    return known


def readable(c: Config) -> tuple[str, ...] | None:
    """The stages of the layout asked for; None where none is, or where nothing can read it."""
    if c[PIPELINE_LAYOUT] is None:
        return None
    try:
        return stages_of(c[PIPELINE_LAYOUT])
    except LayoutError:
        return None


def virtual_size(c: Config) -> int | None:
    """Model chunks per pipeline rank that the layout makes, as TransformerConfig derives them.

    None for one chunk, without a layout, and where no pipeline could hold the stages.
    """
    stages = readable(c) if c[PP] > 1 else None
    if stages is None or len(stages) % c[PP] or len(stages) == c[PP]:
        return None
    return len(stages) // c[PP]

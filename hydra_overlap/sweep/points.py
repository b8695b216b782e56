"""The points of a sweep: what stood on the command line and in `hydra.sweeper`, as one list of overrides a job.

Written as Hydra's BasicSweeper writes them: `hydra.sweeper.params` first, then the command line, which wins; values
quoted back from the parsed form. Beyond it: keys that advance together (`zip`), points with names (`points`), and a
random subset (`sample`). Points are made when asked for, by their index, so that a long sweep costs no memory.
"""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from ..suggest import nearest
from .errors import SweepError

# A point's own value of these would come too late, or be read by nobody.
OF_THE_WHOLE_SWEEP = ("hydra/launcher", "hydra/sweeper", "hydra.sweeper", "hydra.sweep", "hydra.mode")
POINTS = "hydra.sweeper.points"
ZIP = "hydra.sweeper.zip"


@dataclass(frozen=True)
class Point:
    """One job. number: from 0, in order. name: its name in `hydra.sweeper.points`, else empty.

    overrides: what the launcher gets. swept: key -> value as written, of every key that differs between points.
    """

    number: int
    name: str
    overrides: tuple[str, ...]
    swept: dict[str, str]


@dataclass(frozen=True)
class _Axis:
    """Keys that advance together. values: one line per key and step, `key=value`."""

    keys: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]
    names: tuple[str, ...] = ()  # of named points, else empty


@dataclass(frozen=True)
class Points:
    """All points of a sweep, as a sequence that makes each when asked for it.

    slots: the keys in the order of a job's overrides. constant: lines that are the same for every point.
    chosen: indices into the whole grid, if a subset was drawn.
    """

    axes: tuple[_Axis, ...]
    slots: tuple[str, ...]
    constant: Mapping[str, str]
    chosen: Sequence[int] | None = None
    _whole: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_whole", math.prod(len(axis.values) for axis in self.axes))

    @property
    def whole(self) -> int:
        """Points of the whole grid, before a subset was drawn."""
        return self._whole

    def __len__(self) -> int:
        return self._whole if self.chosen is None else len(self.chosen)

    def __iter__(self) -> Iterator[Point]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> Point:
        if not 0 <= number < len(self):
            raise IndexError(number)
        index = number if self.chosen is None else self.chosen[number]
        lines: dict[str, str] = {}
        name = ""
        for axis in reversed(self.axes):  # the last axis advances fastest, as in itertools.product
            index, step = divmod(index, len(axis.values))
            lines.update({_key(line): line for line in axis.values[step]})
            name = axis.names[step] if axis.names else name
        swept = {key: lines[key] for key in self.slots if key in lines}
        overrides = tuple(
            lines.get(key) or self.constant[key] for key in self.slots if key in lines or key in self.constant
        )
        return Point(number, name, overrides, {key: _value(line) for key, line in swept.items()})

    @property
    def swept(self) -> tuple[str, ...]:
        """Keys that differ between points, in order."""
        varied = {key for axis in self.axes for key in axis.keys}
        return tuple(key for key in self.slots if key in varied)


def points(
    arguments: Sequence[str],
    *,
    params: Mapping[str, Any] | None = None,
    named: Mapping[str, Sequence[str]] | None = None,
    zipped: Sequence[Sequence[str]] | None = None,
    sample: int | None = None,
    seed: int = 0,
    config_loader: ConfigLoader | None = None,
) -> Points:
    """The points of a sweep.

    arguments: task overrides of the command line. params, named, zipped, sample, seed: `hydra.sweeper`'s. config_loader:
    what `glob()` looks options up in. Raises SweepError on what makes no sweep, and Hydra's OverrideParseException.
    """
    parser = OverridesParser.create(config_loader=config_loader)
    from_yaml = _lines(parser, [f"{key}={_as_text(value)}" for key, value in (params or {}).items()])
    from_shell = _lines(parser, arguments)
    axes = [_named_axis(parser, named)] if named else []
    # Later ones win, and keep the place of the first: as BasicSweeper has it.
    settled: dict[str, tuple[str, ...] | str] = dict(from_yaml)
    for axis in axes:
        settled.update(dict.fromkeys(axis.keys, ""))
    settled.update(from_shell)
    for key, lines in settled.items():
        if isinstance(lines, tuple) or key in from_yaml:
            _require_of_a_point(key, key)
    if axes:
        axes = [_without(axes[0], set(from_shell))]
    swept = {key: lines for key, lines in settled.items() if isinstance(lines, tuple)}
    axes += _axes(swept, zipped or ())
    constant = {key: line for key, line in settled.items() if isinstance(line, str) and line}
    grid = Points(tuple(axes), tuple(settled), constant)
    return grid if sample is None else Points(grid.axes, grid.slots, constant, _drawn(grid.whole, sample, seed))


def _lines(parser: OverridesParser, texts: Sequence[str]) -> dict[str, tuple[str, ...] | str]:
    """Key -> its line, or its lines if it is swept."""
    found: dict[str, tuple[str, ...] | str] = {}
    for override in parser.parse_overrides(list(texts)):
        key = override.get_key_element()
        if not override.is_sweep_override():
            found[key] = _line(override)
        elif override.is_interval_sweep():
            why = "interval() gives a range to a sweeper that searches; a grid needs values."
            fixes = [(f"{key}=range(START,STOP,STEP)", "numbers at equal distances"), (f"{key}=1,2,3", "these values")]
            raise SweepError("A swept key has no values", where=[str(override.input_line)], why=why, fixes=fixes)
        else:
            found[key] = _values(override)
    return found


def _line(override: Override) -> str:
    return f"{override.get_key_element()}={override.get_value_element_as_str()}"


def _values(override: Override) -> tuple[str, ...]:
    key = override.get_key_element()
    lines = tuple(f"{key}={value}" for value in override.sweep_string_iterator())
    if not lines:
        why = f"{_value(str(override.input_line))} gives no value."
        raise SweepError("A swept key has no values", where=[str(override.input_line)], why=why)
    return lines


def _as_text(value: Any) -> str:
    """A value of `hydra.sweeper.params` as an override writes it; a YAML null is the word."""
    return "null" if value is None else str(value)


def _named_axis(parser: OverridesParser, named: Mapping[str, Sequence[str]]) -> _Axis:
    """The axis of `hydra.sweeper.points`: one step a name."""
    steps = []
    for name, texts in named.items():
        place = f"{POINTS}.{name}"
        if isinstance(texts, str) or not isinstance(texts, Sequence) or not texts:
            why = "A named point is a list of at least one override."
            raise SweepError(
                "A named point has no list of overrides", where=[place], why=why, fixes=[(f"{place}=[KEY=VALUE]", "")]
            )
        lines = []
        for override in parser.parse_overrides([str(text) for text in texts]):
            if override.is_sweep_override():
                why = "A named point is one job. Put swept values into hydra.sweeper.params or on the command line."
                raise SweepError("A named point holds a sweep", where=[f"{place}: {override.input_line}"], why=why)
            _require_of_a_point(override.get_key_element(), place)
            lines.append(_line(override))
        steps.append(tuple({_key(line): line for line in lines}.values()))
    keys = tuple(dict.fromkeys(_key(line) for lines in steps for line in lines))
    return _Axis(keys, tuple(steps), tuple(map(str, named)))


def _without(axis: _Axis, said: set[str]) -> _Axis:
    """The named points without what the command line says: it wins, over them as over params."""
    steps = tuple(tuple(line for line in lines if _key(line) not in said) for lines in axis.values)
    return _Axis(tuple(key for key in axis.keys if key not in said), steps, axis.names)


def _require_of_a_point(key: str, place: str) -> None:
    bare = key.lstrip("+~").partition("@")[0]
    if any(bare == name or bare.startswith(f"{name}.") for name in OF_THE_WHOLE_SWEEP):
        why = "There is one launcher and one sweeper for the whole sweep."
        if bare.startswith("hydra/launcher"):
            why += " Its settings may differ between points: sweep hydra.launcher.KEY in hydra.sweeper.params."
        raise SweepError(f"{bare} cannot differ between points", where=[place], why=why)


def _axes(swept: Mapping[str, tuple[str, ...]], zipped: Sequence[Sequence[str]]) -> list[_Axis]:
    """One axis a key; of zipped keys one together, in the place of the first of them."""
    bare = {key.lstrip("+"): key for key in swept}
    together: dict[str, tuple[str, ...]] = {}
    for group in zipped:
        if isinstance(group, str) or not isinstance(group, Sequence):
            why = "Each inner list names keys that advance together."
            raise SweepError(
                f"{ZIP} is not a list of lists",
                where=[f"{ZIP}={zipped}"],
                why=why,
                fixes=[(f"{ZIP}=[[{','.join(map(str, zipped))}]]", "")],
            )
        keys = tuple(_zipped(str(key), bare, together) for key in group)
        lengths = {key: len(swept[key]) for key in keys}
        if len(set(lengths.values())) > 1:
            raise SweepError(
                "Zipped keys have different numbers of values",
                where=[f"{key}: {count} values" for key, count in lengths.items()],
                why="Zipped keys advance together: first value with first value, second with second.",
            )
        together.update(dict.fromkeys(keys, tuple(key for key in swept if key in keys)))
    axes: list[_Axis] = []
    done: set[str] = set()
    for key in swept:
        keys = together.get(key, (key,))
        if key not in done:
            done.update(keys)
            axes.append(_Axis(keys, tuple(zip(*(swept[name] for name in keys), strict=True))))
    return axes


def _zipped(key: str, bare: Mapping[str, str], together: Mapping[str, Any]) -> str:
    found = bare.get(key.lstrip("+"))
    if found is None:
        near = nearest(key, bare)
        hint = f" Did you mean {near}?" if near else f" Swept keys: {', '.join(bare) or 'none'}."
        raise SweepError(
            "A zipped key is not swept", where=[f"{ZIP}: {key}"], why=f"{key} has no list of values.{hint}"
        )
    if found in together:
        raise SweepError("A key is zipped twice", where=[f"{ZIP}: {key}"], why=f"{key} is in two of the lists.")
    return found


def _drawn(whole: int, sample: int, seed: int) -> Sequence[int] | None:
    """Indices of a random subset, in order; None for all."""
    if sample < 1:
        raise SweepError(
            "hydra.sweeper.sample is smaller than 1",
            where=[f"hydra.sweeper.sample={sample}"],
            why="null runs all points.",
        )
    if sample >= whole:
        return None
    return sorted(random.Random(seed).sample(range(whole), sample))


def _key(line: str) -> str:
    return line.partition("=")[0]


def _value(line: str) -> str:
    return line.partition("=")[2]

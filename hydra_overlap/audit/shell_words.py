"""Words of a shell, expanded as far as the text tells: variables, arrays, defaults, patterns, integers, quotes."""

from __future__ import annotations

import fnmatch
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from . import shell_tests
from .shell_holes import Holes, has

if TYPE_CHECKING:
    from tree_sitter import Node

SECONDS = 3.0  # of processor time, to read one script
STEPS = 600_000  # parts of the text looked at, those of a loop each time
CHARACTERS = 20_000_000  # put together
LENGTH = 1_000_000  # of one value
ITEMS = 200_000  # of one array
SHORT = 40  # characters of a substitution that is shown as it stands
BETWEEN = "\x1f"  # between the items of an array in one hole
# Characters that the parser takes for operators inside ${X:-...}, stood in for there (`parse` in shell.py).
STANDS_FOR = {chr(0xE000 + ord(one)): one for one in "|;&()<>*"}
ESCAPES = {
    "n": "\n",
    "t": "\t",
    "r": "\r",
    "a": "\a",
    "b": "\b",
    "e": "\x1b",
}  # in $'...'; another character stands for itself
PARAMETER = re.compile(rb"\$\{([!#]?)([A-Za-z_]\w*|[0-9]+|[@*#?$!-])(?:\[)?")
INDEXED = ("@", "*")


@dataclass
class Array:
    """An indexed array. owner: of whom it may be changed in place; others copy it first."""

    items: list[str]
    owner: object = None


Value = str | Array | dict[str, str]


@dataclass
class State:
    """What is known at one place. values: of variables. defaults: variable -> as in `Word`.

    parameters: of the script or function; None where nobody said them. flow: why nothing after this place is run. folder:
    that of `cd`. unread: the file that was sourced and could not be read.
    """

    values: dict[str, Value] = field(default_factory=dict)
    defaults: dict[str, dict[str, str]] = field(default_factory=dict)
    exported: set[str] = field(default_factory=set)
    functions: dict[str, tuple[Node, bytes]] = field(default_factory=dict)
    parameters: list[str] | None = None
    flow: str = ""
    folder: str | None = None
    unread: str = ""
    owner: object = field(default_factory=object)

    def fork(self) -> State:
        """A copy, each of the two free to change."""
        self.owner = object()
        return State(
            dict(self.values), dict(self.defaults), set(self.exported), dict(self.functions), self.parameters, self.flow,
            self.folder, self.unread,
        )  # fmt: skip


@dataclass
class Budget:
    """What may still be spent on one script."""

    steps: int = STEPS
    characters: int = CHARACTERS
    until: float = field(default_factory=lambda: time.process_time() + SECONDS)

    def step(self) -> None:
        """Raises ValueError when too much was looked at."""
        self.steps -= 1
        if self.steps < 0 or (self.steps % 512 == 0 and time.process_time() > self.until):
            raise ValueError("it has too many words, or loops over too many, to be read")

    def grow(self, text: str) -> str:
        """The text. Raises ValueError when it or all together become too long."""
        self.characters -= len(text)
        if len(text) > LENGTH or self.characters < 0:
            raise ValueError(f"a value becomes longer than {LENGTH} characters, or all together too long")
        return text


class Raw(NamedTuple):
    """A word as it was expanded, with its holes. several: whether a hole in it may be several words. used: as `Word.defaults`."""

    text: str
    several: bool
    used: dict[str, str]


class _Fields:
    """The words that one word of the text becomes: none, one or several."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.now: list[str] | None = None

    def text(self, text: str) -> None:
        self.now = self.now or []
        self.now.append(text)

    def split(self, text: str) -> None:
        """Text that is cut at its blanks."""
        pieces = text.split()
        if text[:1].isspace():
            self.end()
        for index, piece in enumerate(pieces):
            if index:
                self.end()
            self.text(piece)
        if pieces and text[-1:].isspace():
            self.end()

    def items(self, items: list[str]) -> None:
        for index, item in enumerate(items):
            if index:
                self.end()
            self.text(item)

    def end(self) -> None:
        if self.now is not None:
            self.done.append("".join(self.now))
        self.now = None


class Words:
    """Expands words of one text. substitute: what a command substitution prints, None if that is not known."""

    def __init__(
        self, source: bytes, state: State, holes: Holes, budget: Budget, substitute: Callable[[Node], str | None], folder: Path | None
    ) -> None:  # fmt: skip
        self.source, self.state, self.holes, self.budget = source, state, holes, budget
        self.substitute, self.folder = substitute, folder
        self.used: dict[str, str] = {}  # defaults that stand in what was expanded

    # words

    def of(self, nodes: list[Node]) -> list[Raw]:
        """The words of nodes that follow each other."""
        found: list[Raw] = []
        for group in self._grouped(nodes):
            before, self.used = self.used, {}
            several = len(group) == 1 and self._several(group[0])
            texts = self._fields(group)
            found += [Raw(text, several, self.used) for text in texts]
            self.used = before | self.used
        return found

    def text(self, node: Node) -> str:
        """One word, not cut at blanks, as an assignment takes it."""
        fields = _Fields()
        self._add(node, fields, whole=True)
        fields.end()
        return self.budget.grow(" ".join(fields.done))

    def between(self, start: int, end: int, children: list[Node], *, document: bool = False) -> str:
        """Text with its expansions, from `start` to `end`. document: a here-document or what stands in double quotes."""
        fields = _Fields()
        for kind, piece in self._pieces(start, end, children):
            if not isinstance(piece, str):
                self._add(piece, fields, whole=True)
            elif piece:
                fields.text(_quoted(piece) if document or kind else _bare(piece))
        fields.end()
        return self.budget.grow(" ".join(fields.done))

    def _grouped(self, nodes: list[Node]) -> Iterator[list[Node]]:
        """Nodes of one word together: `a\\⏎b`, `$"a"`."""
        group: list[Node] = []
        for node in nodes:
            gap = self.source[group[-1].end_byte : node.start_byte] if group else b" "
            if gap in (b"", b"\\\n"):
                group.append(node)
                continue
            if group:
                yield group
            group = [node]
        if group:
            yield group

    def _fields(self, group: list[Node]) -> list[str]:
        fields = _Fields()
        for node in group:
            if node.type != "$":
                self._add(node, fields)
        fields.end()
        for word in fields.done:
            self.budget.grow(word)
        return fields.done

    def _several(self, node: Node) -> bool:
        """Whether it is one expansion that is cut at blanks, or an array in full."""
        if node.type == "string":
            inner = [child for child in node.children if child.is_named]
            text = node.text or b""
            return len(inner) == 1 and inner[0].end_byte - inner[0].start_byte == len(text) - 2 and (
                b"[@]" in text or text in (b'"$@"', b'"${@}"', b'"$*"') or text.startswith(b'"${@:')
            )  # fmt: skip
        return node.type in ("simple_expansion", "expansion", "command_substitution")

    def _pieces(self, start: int, end: int, children: list[Node]) -> Iterator[tuple[str, Node | str]]:
        """Children, and the text between them that belongs to none."""
        at = start
        for child in children:
            if child.end_byte <= at or child.start_byte >= end:
                continue
            if child.start_byte > at:
                yield "", self._decode(at, child.start_byte)
            if child.is_named and child.type not in ("string_content", "heredoc_content"):
                yield "", child
            elif child.is_named:
                yield child.type, self._decode(child.start_byte, child.end_byte)
            else:
                yield "", self._decode(child.start_byte, child.end_byte)
            at = child.end_byte
        if at < end:
            yield "", self._decode(at, end)

    def _decode(self, start: int, end: int) -> str:
        return restored(self.source[start:end].decode())

    def _add(self, node: Node, fields: _Fields, *, whole: bool = False) -> None:
        self.budget.step()
        kind, text = node.type, restored((node.text or b"").decode())
        if kind == "raw_string":
            fields.text(text[1:-1])
        elif kind == "ansi_c_string":
            fields.text(re.sub(r"\\(.)", lambda match: ESCAPES.get(match[1], match[1]), text[2:-1], flags=re.DOTALL))
        elif kind in ("string", "translated_string"):
            self._string(node, fields)
        elif kind in ("simple_expansion", "expansion"):
            self._expansion(node, fields, whole=whole)
        elif kind in ("command_substitution", "arithmetic_expansion"):
            value = self._arithmetic(node) if kind == "arithmetic_expansion" else self._printed(node)
            fields.text(value) if whole else fields.split(value)
        elif kind == "process_substitution":
            fields.text(self.holes.unknown("<(...)"))
        elif kind in ("concatenation", "command_name", "variable_name") and node.children:
            for _, piece in self._pieces(node.start_byte, node.end_byte, node.children):
                if not isinstance(piece, str):
                    self._add(piece, fields, whole=whole)
                else:
                    fields.text(_bare(piece))
        else:
            fields.text(_bare(text))

    def _string(self, node: Node, fields: _Fields) -> None:
        start, end = node.start_byte + 1, node.end_byte - 1
        if node.type == "translated_string":
            start += 1
        inner = [child for child in node.children if child.is_named]
        if not inner and start == end:
            fields.text("")
        only = len(inner) == 1 and (inner[0].start_byte, inner[0].end_byte) == (start, end)
        for _, piece in self._pieces(start, end, [child for child in node.children if child.is_named]):
            if isinstance(piece, str):
                fields.text(_quoted(piece))
            elif piece.type in ("simple_expansion", "expansion"):
                self._expansion(piece, fields, whole=True, empty=not only)
            else:
                self._add(piece, fields, whole=True)

    # expansions

    def _printed(self, node: Node) -> str:
        found = self.substitute(node)
        if found is not None:
            return found.rstrip("\n")
        text = " ".join(self._decode(node.start_byte, node.end_byte).split())
        text = f"$({text[1:-1]})" if text.startswith("`") else text
        return self.holes.unknown(text if len(text) <= SHORT else "$(...)", filled=True)

    def _arithmetic(self, node: Node) -> str:
        text = self._decode(node.start_byte, node.end_byte)
        inner = self.between(node.start_byte + (3 if text.startswith("$((") else 2), node.end_byte - (2 if text.startswith("$((") else 1),
                             expansions(node))  # fmt: skip
        value = self.integer(inner)
        text = " ".join(text.split())
        return (
            self.holes.unknown(text if len(text) <= SHORT else "$((...))", filled=True) if value is None else str(value)
        )

    def integer(self, text: str) -> int | None:
        """The value of an arithmetic expression whose `$` are replaced."""
        return shell_tests.integer(text, self._number, self._put)

    def _number(self, name: str) -> str | None:
        self.used |= self.state.defaults.get(name, {})
        value = self.state.values.get(name)
        return value if isinstance(value, str) else value.items[0] if isinstance(value, Array) and value.items else None

    def _put(self, name: str, value: str) -> None:
        self.state.values[name] = value

    def _expansion(self, node: Node, fields: _Fields, *, whole: bool, empty: bool = False) -> None:
        """empty: whether an array without items still is (part of) a word."""
        found = self._value(node)
        if isinstance(found, list):
            items = found if whole else [piece for item in found for piece in item.split()]
            if items or empty:
                fields.items(items or [""])
        elif whole:
            fields.text(found)
        else:
            fields.split(found)

    def _value(self, node: Node) -> str | list[str]:
        """What an expansion gives: text, or the words of `${A[@]}` and `$@`."""
        text = self._decode(node.start_byte, node.end_byte)
        if node.type == "simple_expansion":
            return self._parameter(text[1:], text)
        found = PARAMETER.match(node.text or b"")
        if found is None:
            return self.holes.unknown(text)
        kind, name = found[1].decode(), found[2].decode()
        index, rest = self._index(node)
        if kind == "!":
            named = self.state.values.get(name)
            known = isinstance(named, str) and not has(named) and index is None and rest == node.end_byte - 1
            return (
                self._parameter(str(named), text) if known and str(named).isidentifier() else self.holes.unknown(text)
            )
        if kind == "#" and rest == node.end_byte - 1:
            return self._length(name, index, text)
        mark, operand = self._operator(node, rest)
        if not mark:
            return self._parameter(name, text, index)
        return self._changed(node, name, index, mark, operand, text)

    def _index(self, node: Node) -> tuple[str | None, int]:
        """(what stands in the square brackets, where the rest begins)."""
        subscript = next((child for child in node.children if child.type == "subscript"), None)
        if subscript is None:
            names = [child for child in node.children if child.type in ("variable_name", "special_variable_name")]
            return None, names[0].end_byte if names else node.end_byte - 1
        opening = next(child for child in subscript.children if child.type == "[")
        inner = [child for child in subscript.children if child.start_byte >= opening.end_byte]
        return self.between(opening.end_byte, subscript.end_byte - 1, expansions_of(inner)), subscript.end_byte

    def _operator(self, node: Node, rest: int) -> tuple[str, int]:
        """(the operator of `${NAME-other}`, where its operand begins)."""
        found = re.match(rb":?[-=+?]|##|%%|//|/#|/%|\^\^|,,|[#%/^,:@]", self.source[rest : node.end_byte - 1])
        return (found[0].decode(), rest + found.end()) if found else ("", rest)

    def _operand(self, node: Node, start: int) -> str:
        return self.between(start, node.end_byte - 1, [child for child in node.children if child.start_byte >= start])

    def _changed(self, node: Node, name: str, index: str | None, mark: str, start: int, text: str) -> str | list[str]:
        value = self._known(name, index)
        if mark[-1] in "-=+?" and mark[0] in ":-=+?":
            return self._alternative(node, name, index, mark, start, text)
        if value is None:
            return self.holes.unknown(text, filled=bool(self.state.unread))
        operand = self._operand(node, start)
        if mark == ":":
            return self._part(value, operand, text)
        values = value if isinstance(value, list) else [value]
        if has(operand) or any(has(one) for one in values) or max(map(len, values), default=0) > 4096:
            return self.holes.unknown(text)
        done = [_edited(one, mark, operand) for one in values]
        if any(one is None for one in done):
            return self.holes.unknown(text)
        return [str(one) for one in done] if isinstance(value, list) else str(done[0])

    def _alternative(
        self, node: Node, name: str, index: str | None, mark: str, start: int, text: str
    ) -> str | list[str]:
        """`${NAME:-other}`: the other where NAME is not set in the text, and remembered as a default."""
        value = self._known(name, index)
        flat = " ".join(value) if isinstance(value, list) else value
        empty = shell_tests.is_empty(flat) if flat is not None else True
        if mark[-1] == "?":
            return self._parameter(name, text, index)
        known = flat is not None and (mark[0] != ":" or empty is False)
        if flat is not None and mark[0] == ":" and empty is None:
            return self.holes.unknown(text)
        if mark[-1] == "+":
            return self._operand(node, start) if known else "" if self._said(name) else self.holes.unknown(text)
        if known:
            self.used |= self.state.defaults.get(name, {})
            return value if value is not None else ""
        other = self._operand(node, start)
        if self.state.unread and not self._said(name):
            return self.holes.unknown(text, why=self.state.unread)
        if not self._said(name):
            self.used[f"${name}" if name.isdigit() else name] = self.holes.spelt(other)
        if mark[-1] == "=" and not name.isdigit():
            self.state.values[name] = other
            self.state.defaults[name] = dict(self.used)
        return other

    def _said(self, name: str) -> bool:
        """Whether the text itself, or the caller, says what it is: nothing else can set it."""
        return name in self.state.values or (name.isdigit() and self.state.parameters is not None)

    def _known(self, name: str, index: str | None = None) -> str | list[str] | None:
        """The value of a parameter; None if nothing sets it."""
        if name.isdigit() or name in INDEXED:
            return self._positional(name)
        self.used |= self.state.defaults.get(name, {})
        value = self.state.values.get(name)
        if name in ("BASH_SOURCE",) and self.folder is not None:
            return f"{self.folder}/{SCRIPT}"
        if isinstance(value, str) or value is None:
            return value if index in (None, "0") else [value] if index in INDEXED and value is not None else None
        items = list(value.values()) if isinstance(value, dict) else value.items
        if index in INDEXED:
            return items if index == "@" else " ".join(items)
        if isinstance(value, dict):
            return value.get(_unquoted(index or "0"), "") if not has(index or "") else None
        at = self.integer(index or "0")
        if at is None:
            return None
        return items[at] if -len(items) <= at < len(items) else ""

    def _positional(self, name: str) -> str | list[str] | None:
        if name == "0":
            return f"{self.folder}/{SCRIPT}" if self.folder is not None else None
        if self.state.parameters is None:
            return None
        if name in INDEXED:
            return self.state.parameters if name == "@" else " ".join(self.state.parameters)
        at = int(name[:6])
        return self.state.parameters[at - 1] if at <= len(self.state.parameters) else ""

    def _parameter(self, name: str, text: str, index: str | None = None) -> str | list[str]:
        if name == "#":
            return self._length("@", "@", text)
        value = self._known(name, index)
        if value is None:
            why = self.state.unread if not name.isdigit() and name not in INDEXED else ""
            return self.holes.unknown(text, filled=bool(why), why=why)
        return value

    def _length(self, name: str, index: str | None, text: str) -> str:
        value = self._known(name, index)
        if value is None or any(has(one) for one in value):
            return self.holes.unknown(text)
        return str(len(value))

    def _part(self, value: str | list[str], operand: str, text: str) -> str | list[str]:
        """`${NAME:start:length}`."""
        first, _, second = operand.partition(":")
        start, length = self.integer(first), self.integer(second) if second else None
        if start is None or (second and (length is None or length < 0)) or any(has(one) for one in value):
            return self.holes.unknown(text)
        if isinstance(value, list) and text.startswith(("${@", "${*")):
            start -= 1  # parameters count from one
        start = max(0, start + len(value) if start < 0 else start)
        return value[start:] if length is None else value[start : start + length]


SCRIPT = "\x1eSCRIPT"  # stands for the name of the file that is read, which nobody knows here


def restored(text: str) -> str:
    """The text with the characters that the parser was spared."""
    return text if text.isascii() else "".join(STANDS_FOR.get(one, one) for one in text)


def expansions(node: Node) -> list[Node]:
    """The outermost expansions below a node, in their order."""
    return expansions_of(node.children)


def expansions_of(nodes: list[Node]) -> list[Node]:
    """Those among the nodes and below them."""
    found: list[Node] = []
    todo = list(reversed(nodes))
    while todo:
        one = todo.pop()
        if one.type in (
            "simple_expansion",
            "expansion",
            "command_substitution",
            "arithmetic_expansion",
            "string",
            "raw_string",
        ):
            found.append(one)
        else:
            todo += reversed(one.children)
    return found


def _edited(value: str, mark: str, operand: str) -> str | None:
    """A value without the part that a pattern matches, with another in its place, or in capitals."""
    if mark in ("^^", ",,") and not operand:
        return value.upper() if mark == "^^" else value.lower()
    if mark in ("^", ",") and not operand:
        return (value[:1].upper() if mark == "^" else value[:1].lower()) + value[1:]
    if mark[0] in "#%":
        pattern = re.compile(fnmatch.translate(_unquoted(operand)))
        ends = range(len(value) + 1) if mark in ("#", "%%") else range(len(value), -1, -1)
        if mark[0] == "#":
            return next((value[end:] for end in ends if pattern.match(value[:end])), value)
        return next((value[:end] for end in ends if pattern.match(value[end:])), value)
    if mark in ("/", "//"):
        old, _, new = operand.partition("/")
        old = _unquoted(old)
        return value.replace(old, new, -1 if mark == "//" else 1) if old and not set(old) & set("*?[") else None
    return None


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def _bare(text: str) -> str:
    """Outside of quotes."""
    return (
        re.sub(r"\\(\n?)(.?)", lambda found: "" + found[2] if found[1] else found[2], text, flags=re.DOTALL)
        if "\\" in text
        else text
    )


def _quoted(text: str) -> str:
    """Inside of double quotes."""
    return re.sub(r"\\([$`\"\\\n])", lambda found: "" if found[1] == "\n" else found[1], text) if "\\" in text else text

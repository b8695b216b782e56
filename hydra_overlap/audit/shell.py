"""The commands of a shell script, read and not run: what the text decides is decided, the rest stays open.

Parsed by tree-sitter's grammar of bash; evaluated here: variables, arrays, functions, conditions and loops whose words the
text tells, integers, sourced files of the same folder. What a command would print, what the caller passes and what another
file holds are not known: such words keep their `$`. A command that depends on a condition nobody can evaluate is there
once for each way it may turn out.
"""

from __future__ import annotations

import fnmatch
import itertools
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from . import shell_tests
from .launchers import is_count
from .shell_holes import Hole, Holes, Word, differing, has
from .shell_words import (
    BETWEEN,
    ITEMS,
    SCRIPT,
    STANDS_FOR,
    Array,
    Budget,
    Raw,
    State,
    Value,
    Words,
    expansions,
    expansions_of,
)

if TYPE_CHECKING:
    from tree_sitter import Node

BYTES = 2_000_000  # of a script
WORDS = 150_000  # of all commands
DEPTH = 100  # of statements in statements
SCRIPTS = 8  # scripts in words of scripts, functions in functions, files that source files
ROUNDS = 64  # of one loop
WAYS = 32  # in which the conditions around one command may turn out
WIDTH = 60  # columns of a value that is shown
PROGRAM = ".py"  # a text without one is not looked into
STANDS_FOR_BACK = {one: character for character, one in STANDS_FOR.items()}
# `${X:-a|b}`: bash takes the operators for text there, the grammar does not.
OPERAND = re.compile(r"(\$\{\w+(?:\[[^]\n]*\])?:?[-=+?])([^{}$\"'`\\\n]*)(?=\})")
WORD_NODES = frozenset(
    {"word", "number", "string", "raw_string", "ansi_c_string", "translated_string", "concatenation", "simple_expansion",
     "expansion", "command_substitution", "arithmetic_expansion", "process_substitution", "brace_expression", "$",
     "extglob_pattern", "regex", "variable_name", "test_operator"}
)  # fmt: skip
PRESUMED = "presumed"  # the status of a command that is not run: that it succeeds, where the script goes on only then
Status = bool | str | None
PLAIN_PREFIX = ("command", "builtin")
PRINTS = ("echo", "printf", "pwd", "dirname", "basename", "realpath", "readlink", "seq", "expr", "cat")
SOURCES = ("source", ".")
FLAG = re.compile(r"--?[A-Za-z]")
UNCLOSED = re.compile(rb"\$?[\"'`]|\$[({]")


@dataclass
class Command:
    """words: expanded, each a `Word`. outer: words of the command it is an argument or the input of (`srun bash -c "..."`).

    variables: those known where it stands, assignments before its first word included. exported: the names that a program
    finds in its environment. inside: line of the condition or loop around the command that nobody can evaluate. ways: how
    the conditions that its words hang on turn out here. group: the same for all of these. cut: the flags that the text
    meant for it and that bash does not pass, with their line and the reason.
    """

    line: int
    words: list[str] = field(default_factory=list)
    outer: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    exported: frozenset[str] = frozenset()
    inside: int | None = None
    ways: tuple[str, ...] = ()
    group: int = 0
    cut: Cut | None = None
    unread: str = ""

    @property
    def defaults(self) -> dict[str, str]:
        """Variables -> values that stand in its words only because nothing else was said."""
        words = (word for word in (*self.outer, *self.words) if isinstance(word, Word))
        return {name: value for word in words for name, value in word.defaults.items()}


@dataclass(frozen=True)
class Cut:
    """Flags that belong to no command. line: theirs. why: what ends the command before them."""

    line: int
    words: tuple[str, ...]
    why: str


@dataclass
class Script:
    """commands: in the order of the text, those left out that only print. variables: their last values. directives: `#SBATCH` words."""

    commands: list[Command] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    directives: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Around:
    """What is known of a script from outside.

    folder: its own; files that it sources are read only inside. arguments: its positional parameters, if somebody said them.
    environment: (name, value) of variables that are set around it.
    """

    folder: Path | None = None
    arguments: tuple[str, ...] | None = None
    environment: tuple[tuple[str, str], ...] = ()


NOTHING = Around()


def read(text: str, around: Around = NOTHING) -> Script:
    """The commands of a text. Raises ValueError, with the line, on what bash could not read, and on what has no bounds."""
    found = _read(text, around)
    if isinstance(found, ValueError):
        raise found
    return found


@lru_cache(maxsize=1)  # several formats look at the same text
def _read(text: str, around: Around) -> Script | ValueError:
    text = text.replace("\r\n", "\n").removeprefix("\ufeff")
    reader = _Reader(around)
    try:
        reader.read(text)
        if reader.notes and not reader.found:
            raise ValueError(reader.notes[0])
        script = Script(reader.finished(), reader.last(), notes=reader.notes)
    except RecursionError:
        return ValueError("its brackets are nested too deeply")
    except ValueError as error:
        return error
    for line in text.splitlines():
        if line.startswith("#SBATCH"):
            script.directives += _shell_words(line.removeprefix("#SBATCH"))
    return script


def _shell_words(text: str) -> list[str]:
    try:
        return shlex.split(text, comments=True)
    except ValueError:  # a quote that is not closed
        return text.split()


def conditions(command: Command) -> tuple[str, ...]:
    """What is true of the command only if something that the text does not tell turns out so."""
    notes = [f"if {' and '.join(command.ways)}"] if command.ways else []
    if command.defaults:
        said = ", ".join(f"{name}={_short(value)}" for name, value in sorted(command.defaults.items()))
        notes.append(f"by default: {said}; an argument or a variable of that name replaces it")
    if command.inside is not None:
        notes.append(
            f"line {command.line} runs only if the condition or loop of line {command.inside} turns out so; the text does not tell"
        )
    return tuple(notes)


def _short(value: str) -> str:
    text = " ".join(value.split())
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 3]}..."


@dataclass
class _Found:
    """A command as it was met: its words with their holes."""

    line: int
    words: list[Raw]
    outer: list[Raw]
    state: State
    inside: int | None
    exported: frozenset[str]
    cut: Cut | None = None


@dataclass
class _Text:
    """The text that is being read, parsed. line: of its first line in the file."""

    source: bytes
    root: Node
    line: int = 1
    outer: list[Raw] = field(default_factory=list)


def parse(text: str) -> tuple[bytes, Node]:
    """The text as the grammar sees it, and its tree. Raises ValueError if it is too long."""
    if len(text) > BYTES:
        raise ValueError(f"it is longer than {BYTES // 1_000_000} MB")
    source = OPERAND.sub(lambda found: found[1] + "".join(STANDS_FOR_BACK.get(one, one) for one in found[2]), text)
    source = re.sub(r"\\\n[ \t]*(?=\n|\Z)", "\n", source + "\n")  # a backslash before an empty line continues nothing
    import tree_sitter_bash
    from tree_sitter import Language, Parser

    encoded = source.encode("utf-8", "replace")
    if len(encoded) > BYTES:
        raise ValueError(f"it is longer than {BYTES // 1_000_000} MB")
    return encoded, Parser(Language(tree_sitter_bash.language())).parse(encoded).root_node


class _Reader:
    def __init__(self, around: Around) -> None:
        self.folder = around.folder
        self.holes, self.budget = Holes(), Budget()
        self.state = State(parameters=None if around.arguments is None else list(around.arguments))
        self.state.values |= dict(around.environment)
        self.state.exported |= dict(around.environment).keys()
        self.found: list[_Found] = []
        self.notes: list[str] = []
        self.conditions: list[tuple[str, ...]] = []  # what each branch of a condition is called
        self.inside: list[int] = []
        self.printed: list[list[str | None]] = []  # by the commands of the substitutions around
        self.depth = self.scripts = self.number_of_words = 0
        self.text = _Text(b"", parse("")[1])

    # texts

    def read(self, text: str, line: int = 1, outer: Sequence[Raw] = ()) -> None:
        """All statements of a text, which may be a script inside a script."""
        before = self.text
        source, root = parse(text)
        self.text = _Text(source, root, line, list(outer))
        try:
            if root.type == "ERROR":
                raise ValueError(f"line {self._line(_first_error(root))} cannot be read as bash")
            self._statements(root)
        finally:
            self.text = before

    def last(self) -> dict[str, str]:
        return {name: self.holes.spelt(_flat(value)) for name, value in self.state.values.items()}

    def finished(self) -> list[Command]:
        """Every command, once for each way in which the conditions that it hangs on may turn out."""
        commands: list[Command] = []
        for group, found in enumerate(self.found):
            commands += self._ways(found, group)
        return commands

    def _ways(self, found: _Found, group: int) -> list[Command]:
        texts = [text for text, _, _ in (*found.outer, *found.words)]
        hangs = self.holes.conditions(texts)
        if prod(hangs.values()) > WAYS:
            hangs = {}
        commands: list[Command] = []
        for branches in itertools.product(*(range(count) for count in hangs.values())):
            choice = dict(zip(hangs, branches, strict=True))
            names = tuple(dict.fromkeys(self.conditions[number][branch] for number, branch in choice.items()))
            command = Command(
                line=found.line,
                words=self._chosen(found.words, choice),
                outer=tuple(self._chosen(found.outer, choice)),
                variables=_Variables(found.state.values, self.holes, choice),
                exported=found.exported,
                inside=found.inside,
                ways=names,
                group=group,
                cut=found.cut,
                unread=found.state.unread,
            )
            if not any(other.words == command.words and other.outer == command.outer for other in commands):
                commands.append(command)
        return commands

    def _chosen(self, words: list[Raw], choice: dict[int, int]) -> list[str]:
        done: list[str] = []
        for raw, several, defaults in words:
            text = self.holes.chosen(raw, choice)
            pieces = [text]
            if text is not raw and text != raw:
                pieces = [piece for piece in text.split(BETWEEN) if piece]
                pieces = [part for piece in pieces for part in piece.split()] if several else pieces
            done += [self.holes.word(piece, defaults, several=several) for piece in pieces]
        return done

    # statements

    def _statements(self, node: Node) -> Status:
        """The children of a node one after the other; -> the status of the last."""
        status: Status = PRESUMED
        before: Node | None = None
        for child in node.named_children:
            if self.state.flow:
                break
            if child.type == "comment":
                continue
            if child.type == "ERROR" or child.is_missing:
                self._unreadable(child)
                continue
            if self._is_cut(child, before):
                continue
            status = self.statement(child)
            before = child
        return status

    def statement(self, node: Node) -> Status:
        """One statement; -> whether it succeeds."""
        self.budget.step()
        handler = _HANDLERS.get(node.type)
        if handler is None:
            return PRESUMED
        if node.has_error and node.type not in _COMPOUND:
            self._unreadable(node)
            return None
        self.depth += 1
        if self.depth > DEPTH:
            raise ValueError("its brackets are nested too deeply")
        try:
            status: Status = handler(self, node)
            return status
        finally:
            self.depth -= 1

    def _unreadable(self, node: Node) -> None:
        """Something that bash could not read either, or that the grammar does not know: what it sets is not known."""
        note = f"line {self._line(node)} cannot be read as bash"
        if UNCLOSED.match(node.text or b""):
            raise ValueError(f"{note}: what begins there is never closed")
        self.notes += [] if note in self.notes else [note]
        todo = [node]
        while todo:
            one = todo.pop()
            self.budget.step()
            if one.type == "variable_assignment" and one.children and one.children[0].type == "variable_name":
                name = (one.children[0].text or b"").decode()
                self.state.values[name] = self.holes.unknown(f"${name}", filled=True, why=note)
            todo += one.children

    def _is_cut(self, node: Node, before: Node | None) -> bool:
        """Whether a command is nothing but flags that were meant for the one before it."""
        inner = node
        while inner.type in ("redirected_statement", "pipeline", "list") and inner.named_children:
            inner = inner.named_children[0]
        if (
            inner.type != "command"
            or before is None
            or not self.found
            or not FLAG.match((inner.text or b"")[:3].decode("utf-8", "replace"))
        ):
            return False
        last = self.found[-1]
        if self.holes.spelt(last.words[0][0]).startswith("-") or last.cut is not None:
            return last.cut is not None
        between = self.text.source[before.end_byte : node.start_byte].decode("utf-8", "replace")
        if "\n\n" in between.replace(" ", "") and "#" not in between:
            return False
        line = self._line(node)
        comment = next((i for i, row in enumerate(between.splitlines()) if row.lstrip().startswith("#")), None)
        ends = self._line(before, end=True)
        why = (
            f"the comment on line {ends + comment} ends it" if comment is not None
            else f"line {line - 1} does not end with a backslash, or has a blank after it"
        )  # fmt: skip
        words = [self.holes.spelt(text) for text, _, _ in self._words().of(_word_nodes(inner))]
        last.cut = Cut(line, tuple(words), why)
        return True

    def _line(self, node: Node, *, end: bool = False) -> int:
        return self.text.line + (node.end_point if end else node.start_point).row

    def _words(self) -> Words:
        return Words(self.text.source, self.state, self.holes, self.budget, self._substitution, self.folder)

    # lists, conditions, loops

    def _list(self, node: Node) -> Status:
        left, right = node.named_children[0], node.named_children[-1]
        mark = next((child.type for child in node.children if child.type in ("&&", "||")), ";")
        status = self.statement(left)
        if mark == ";" or self.state.flow:
            return self.statement(right) if not self.state.flow else status
        if mark == "||" and status == PRESUMED:
            status = None
        decided = True if status == PRESUMED else status
        if decided is None:
            line = self._line(left)
            names = (f"the condition on line {line} holds", f"the condition on line {line} does not hold")
            self._branches([right, None], names if mark == "&&" else names[::-1], line)
            return None
        return self.statement(right) if decided is (mark == "&&") else decided

    def _branches(self, bodies: Sequence[Node | list[Node] | None], names: tuple[str, ...], line: int) -> None:
        """One of several bodies is run, nobody knows which; None is none at all."""
        start, ends, alive = self.state, [], []
        number = len(self.conditions)
        self.conditions.append(names)
        self.inside.append(line)
        marks = [len(printed) for printed in self.printed]
        for index, body in enumerate(bodies):
            self.state = start.fork()
            for one in body if isinstance(body, list) else [] if body is None else [body]:
                if not self.state.flow:
                    self.statement(one)
            ends.append(self.state)
            alive += [] if self.state.flow else [index]
        self.inside.pop()
        for printed, mark in zip(self.printed, marks, strict=True):
            printed[mark:] = [None] if len(printed) > mark else []
        self.state = self._merged(start, ends, alive, number)

    def _merged(self, start: State, ends: list[State], alive: list[int], number: int) -> State:
        """What is known after one of several ways. alive: those that come to this place."""
        if not alive:
            return ends[0] if all(end.flow == ends[0].flow for end in ends) else replace(ends[0], flow="exit")
        if len(alive) == 1:
            return ends[alive[0]]
        merged = ends[alive[0]].fork()
        states = [ends[index] if index in alive else ends[alive[0]] for index in range(len(ends))]
        names = dict.fromkeys(name for state in states for name in state.values)
        for name in names:
            self.budget.step()
            values = [state.values.get(name) for state in states]
            if any(value is not values[0] and value != values[0] for value in values[1:]):
                merged.values[name] = self._either(name, values, number)
            for state in states:
                if state.defaults.get(name):
                    merged.defaults[name] = {**merged.defaults.get(name, {}), **state.defaults[name]}
        merged.exported = set().union(*(state.exported for state in states))
        if any(state.parameters != merged.parameters for state in states):
            merged.parameters = None
        if any(state.folder != merged.folder for state in states):
            merged.folder = None
        merged.unread = next((state.unread for state in states if state.unread), "")
        return merged

    def _either(self, name: str, values: Sequence[Value | None], number: int) -> Value:
        missing = self.holes.unknown(f"${name}")
        if any(isinstance(value, dict) for value in values):
            return self.holes.unknown(f"${name}", filled=True)
        if any(isinstance(value, Array) for value in values):
            lists = [
                value.items if isinstance(value, Array) else [] if value is None or isinstance(value, dict) else [value]
                for value in values
            ]
            shortest = min(lists, key=len)
            alike = next(
                (i for i, one in enumerate(shortest) if any(items[i] != one for items in lists)), len(shortest)
            )
            rest = tuple(BETWEEN.join(items[alike:]) for items in lists)
            hole = Hole(f"${{{name}[@]}}", filled=True, condition=number, branches=rest)
            return Array([*shortest[:alike], self.holes.put(hole)])
        texts = [value if isinstance(value, str) else missing for value in values]
        begin, rest = differing(texts, apart=True)
        return begin + self.holes.put(Hole(f"${name}", filled=True, condition=number, branches=rest))

    def _if(self, node: Node) -> Status:
        """The arms whose conditions may hold, up to the first that does."""
        bodies: list[list[Node] | None] = []
        lines: list[int] = []
        line = self._line(node)
        for condition, body, at in _arms(node):
            status: Status = True
            if condition:
                for one in condition:
                    status = self.statement(one)
                status = None if status == PRESUMED else status
            if status is False:
                continue
            lines.append(self.text.line + at)
            bodies.append(body)
            if status is True:
                break
        else:
            bodies.append(None)
        if len(bodies) == 1:
            return self._body(bodies[0])
        before = lines[: len(bodies) - 1]  # the last body is that of no condition, or of the one that is left then
        names = [f"the condition on line {number} holds" for number in before]
        names.append(f"no condition on line {' or '.join(map(str, before))} holds")
        self._branches(bodies, tuple(names), line)
        return PRESUMED

    def _body(self, body: list[Node] | None) -> Status:
        status: Status = PRESUMED
        for one in body or ():
            if not self.state.flow and one.type != "comment":
                status = self.statement(one)
        return status

    def _case(self, node: Node) -> Status:
        subject = next(child for child in node.named_children if child.type != "comment")
        value = self._words().text(subject)
        items = [child for child in node.named_children if child.type == "case_item"]
        if not has(value):
            for item in items:
                patterns, body = self._item(item)
                if any(has(one) for one in patterns):
                    break
                if any(fnmatch.fnmatchcase(value, one) for one in patterns):
                    return self._body(body)
            else:
                return PRESUMED
        names, bodies = [], []
        for item in items:
            patterns, body = self._item(item)
            names.append(f"line {self._line(item)} of the `case` is met ({_short('|'.join(patterns))})")
            bodies.append(body)
            if "*" in patterns:
                break
        else:
            names.append(f"no line of the `case` on line {self._line(node)} is met")
            bodies.append([])
        self._branches(bodies, tuple(names), self._line(node))
        return PRESUMED

    def _item(self, item: Node) -> tuple[list[str], list[Node]]:
        """(its patterns, its statements)."""
        end = next((child.end_byte for child in item.children if child.type == ")"), item.end_byte)
        patterns = [self._words().text(child) for child in item.named_children if child.end_byte <= end]
        return patterns, [child for child in item.named_children if child.start_byte >= end]

    def _for(self, node: Node) -> Status:
        name = next((child for child in node.children if child.type == "variable_name"), None)
        body = node.child_by_field_name("body") or node.named_children[-1]
        if name is None:
            return self._perhaps(node, [body])
        variable = (name.text or b"").decode()
        words = self._words()
        nodes = [child for child in node.children if child.type in WORD_NODES and child.start_byte > name.start_byte]
        listed = any(child.type == "in" for child in node.children)
        items = [text for text, _, _ in words.of(nodes)] if listed else self.state.parameters
        if (
            node.children[0].type == "select"
            or items is None
            or any(has(item) or "{" in item for item in items)
            or len(items) > ROUNDS
        ):
            return self._perhaps(node, [body], variable)
        for item in items:
            self.state.values[variable] = item
            self.state.defaults[variable] = dict(words.used)
            self.statement(body)
            if self._leaves_loop():
                break
        return PRESUMED

    def _leaves_loop(self) -> bool:
        """Whether a loop ends here; `continue` goes on."""
        if self.state.flow in ("continue", "break"):
            leaves, self.state.flow = self.state.flow == "break", ""
            return leaves
        return bool(self.state.flow)

    def _perhaps(self, node: Node, body: list[Node], variable: str = "") -> Status:
        """A loop of which nobody knows how often it runs: not at all, or as if once."""
        line = self._line(node)
        if variable:
            self.state.values[variable] = self.holes.unknown(f"${variable}", filled=True)
        self._branches(
            [list(body), None], (f"the loop on line {line} runs", f"the loop on line {line} does not run"), line
        )
        if self.state.flow in ("break", "continue"):
            self.state.flow = ""
        return PRESUMED

    def _c_for(self, node: Node) -> Status:
        name = re.match(rb"for\s*\(\(\s*(\w+)", node.text or b"")
        return self._perhaps(node, [node.named_children[-1]], name[1].decode() if name else "")

    def _while(self, node: Node) -> Status:
        body = node.named_children[-1]
        test = [child for child in node.named_children[:-1] if child.type != "comment"]
        until = node.children[0].type == "until"
        for _ in range(ROUNDS):
            status = self._body(test)
            decided = None if status == PRESUMED or isinstance(status, str) else status
            decided = shell_tests.negated(decided) if until else decided
            if decided is False:
                return PRESUMED
            if decided is None:
                break
            self.statement(body)
            if self._leaves_loop() or [child.text for child in test] in ([b"true"], [b":"]):
                return PRESUMED
        return self._perhaps(node, [body])

    def _function(self, node: Node) -> Status:
        name = next(child for child in node.named_children if child.type in ("word", "variable_name"))
        self.state.functions[(name.text or b"").decode()] = (node.named_children[-1], self.text.source)
        return True

    def _apart(self, node: Node) -> Status:
        """`( ... )` and the parts of a pipeline: what they set is forgotten."""
        parts = node.named_children if node.type == "pipeline" else [node]
        status: Status = PRESUMED
        start = self.state
        marks = [len(printed) for printed in self.printed]
        for part in parts:
            self.state = start.fork()
            status = self._statements(part) if part is node else self.statement(part)
        self.state = start
        if node.type == "pipeline":
            for printed, mark in zip(self.printed, marks, strict=True):
                printed[mark:] = [None]
        return status

    def _not(self, node: Node) -> Status:
        status = self.statement(node.named_children[-1])
        return None if status == PRESUMED or isinstance(status, str) else shell_tests.negated(status)

    def _group(self, node: Node) -> Status:
        if node.children and node.children[0].type == "((":
            inner = self._words()
            text = inner.between(node.children[0].end_byte, node.children[-1].start_byte, expansions(node))
            value = inner.integer(text)
            return None if value is None else bool(value)
        return self._statements(node)

    # tests

    def _test(self, node: Node) -> Status:
        if node.children[0].type == "[[":
            inner = [child for child in node.named_children if child.type != "comment"]
            return self._expression(inner[0]) if len(inner) == 1 else None
        tokens: list[str] = []
        for child in node.children[1:-1]:
            tokens += self._tokens(child)
        return shell_tests.holds(tokens)

    def _tokens(self, node: Node) -> list[str]:
        """The words of `[ ... ]`."""
        self.budget.step()
        if node.type in WORD_NODES and node.type != "test_operator":
            return [text for text, _, _ in self._words().of([node])]
        if not node.children:
            return [(node.text or b"").decode()]
        return [token for child in node.children for token in self._tokens(child)]

    def _expression(self, node: Node) -> bool | None:
        """Of `[[ ... ]]`."""
        self.budget.step()
        parts = node.children
        if node.type == "parenthesized_expression":
            return self._expression(node.named_children[0])
        if node.type == "unary_expression" and len(parts) == 2:
            mark = (parts[0].text or b"").decode()
            if mark == "!":
                return shell_tests.negated(self._expression(parts[1]))
            return shell_tests.single(mark, self._words().text(parts[1]))
        if node.type == "binary_expression" and len(parts) == 3:
            mark = (parts[1].text or b"").decode()
            if (
                parts[0].type == "unary_expression"
                and (parts[0].children[0].text or b"") == b"!"
                and mark not in ("&&", "||")
            ):
                return shell_tests.negated(self._compared(parts[0].children[1], mark, parts[2]))
            if mark in ("&&", "||"):
                join = shell_tests.both if mark == "&&" else shell_tests.either
                return join(self._expression(parts[0]), self._expression(parts[2]))
            return self._compared(parts[0], mark, parts[2])
        if node.type in WORD_NODES:
            return shell_tests.negated(shell_tests.is_empty(self._words().text(node)))
        return None

    def _compared(self, left: Node, mark: str, right: Node) -> bool | None:
        words = self._words()
        first, second = words.text(left), words.text(right)
        if mark in shell_tests.NUMBERS:
            one, other = words.integer(first), words.integer(second)
            return None if one is None or other is None else shell_tests.NUMBERS[mark](one, other)
        return shell_tests.compared(first, mark, second, pattern=right.type not in ("string", "raw_string"))

    # assignments

    def _assignments(self, node: Node) -> Status:
        if node.type == "variable_assignment":
            self._assign(node)
        for child in node.named_children if node.type == "variable_assignments" else ():
            self._assign(child)
        return True

    def _assign(self, node: Node, *, table: bool = False) -> str:
        """-> the name."""
        words = self._words()
        target, value = node.children[0], node.children[-1]
        adds = any(child.type == "+=" for child in node.children)
        name = (target.text or b"").decode().partition("[")[0]
        before = self.state.values.get(name)
        if value.type == "array":
            self._assign_array(name, value, words, before if adds else None, table=table or isinstance(before, dict))
        else:
            text = "" if value.type in ("=", "+=") else words.text(value)
            if target.type == "subscript":
                self._assign_item(name, target, text, words, adds=adds)
            elif isinstance(before, Array) and before.items:
                first = before.items[0] + text if adds else text
                self.state.values[name] = Array([first, *before.items[1:]])
            elif adds and before is None and self.state.unread:
                self.state.values[name] = words.budget.grow(
                    self.holes.unknown(f"${name}", filled=True, why=self.state.unread) + text
                )
            else:
                begin = before if adds and isinstance(before, str) else ""
                self.state.values[name] = words.budget.grow(begin + text)
        kept = self.state.defaults.get(name, {}) if adds else {}
        self.state.defaults[name] = {**kept, **words.used}
        return name

    def _assign_array(self, name: str, node: Node, words: Words, before: Value | None, *, table: bool) -> None:
        items = [text for text, _, _ in words.of([child for child in node.children if child.type in WORD_NODES])]
        keyed = [re.fullmatch(r"\[([^]]*)\]=(.*)", item, re.DOTALL) for item in items]
        if table or (items and all(keyed)):
            old = before if isinstance(before, dict) else {}
            new = {found[1].strip("'\""): found[2] for found in keyed if found}
            self.state.values[name] = {**old, **new} if table else Array([found[2] for found in keyed if found])
            return
        if isinstance(before, Array) and before.owner is self.state.owner:
            before.items += items
            array = before
        else:
            unread = [self.holes.unknown(f"${{{name}[@]}}", filled=True, why=self.state.unread)]
            old_items = before.items if isinstance(before, Array) else [before] if isinstance(before, str) else []
            missing = before is None and self.state.unread and _adds(node)
            array = Array([*(unread if missing else old_items), *items], self.state.owner)
            self.budget.steps -= len(array.items) // 16
        if len(array.items) > ITEMS:
            raise ValueError(f"{name} becomes longer than {ITEMS} items")
        self.budget.characters -= sum(map(len, items))
        self.budget.grow("")
        self.state.values[name] = array

    def _assign_item(self, name: str, target: Node, text: str, words: Words, *, adds: bool) -> None:
        before = self.state.values.get(name)
        index = words.between(
            next(child for child in target.children if child.type == "[").end_byte, target.end_byte - 1,
            expansions_of(target.children[1:]),
        )  # fmt: skip
        if isinstance(before, dict):
            if not has(index):
                key = index.strip("'\"")
                self.state.values[name] = {**before, key: before.get(key, "") + text if adds else text}
                return
        else:
            at, items = words.integer(index), list(before.items) if isinstance(before, Array) else []
            if at is not None and 0 <= at <= len(items):
                items[at : at + 1] = [(items[at] if adds and at < len(items) else "") + text]
                self.state.values[name] = Array(items)
                return
        self.state.values[name] = self.holes.unknown(f"${{{name}[@]}}", filled=True)

    def _declare(self, node: Node) -> Status:
        how = (node.children[0].text or b"").decode()
        options = "".join(
            (child.text or b"").decode() for child in node.named_children if (child.text or b"").startswith(b"-")
        )
        for child in node.named_children:
            name = ""
            if child.type == "variable_assignment":
                name = self._assign(child, table="A" in options)
            elif child.type == "variable_name":
                name = (child.text or b"").decode()
                if "A" in options:
                    self.state.values.setdefault(name, {})
                elif how == "local" or "a" in options:
                    self.state.values.setdefault(name, Array([]) if "a" in options else "")
            elif child.type in WORD_NODES and not (child.text or b"").startswith(b"-"):
                for text, _, _ in self._words().of([child]):
                    name, equals, value = text.partition("=")
                    if equals and name.isidentifier():
                        self.state.values[name] = value
            if name and (how == "export" or "x" in options) and "n" not in options:
                self.state.exported.add(name)
        return True

    def _unset(self, node: Node) -> Status:
        for child in node.named_children:
            name = (child.text or b"").decode()
            if name.isidentifier():
                self.state.values[name] = ""
                self.state.exported.discard(name)
        return True

    # commands

    def _redirected(self, node: Node) -> Status:
        body = node.child_by_field_name("body") or node.named_children[0]
        text = ""
        extra: list[Node] = []
        for child in node.named_children:
            if child.type == "heredoc_redirect":
                text = self._document(child)
                extra += [one for one in child.named_children if one.type in WORD_NODES]
            elif child.type == "file_redirect":
                extra += [one for one in child.named_children if one.type in WORD_NODES][1:]
            elif child.type in WORD_NODES and child.start_byte >= body.end_byte:
                extra.append(child)
        if body.type == "command":
            return self._command(body, text, extra)
        if body.type in ("heredoc_redirect", "file_redirect", "herestring_redirect"):
            return PRESUMED
        return self.statement(body)

    def _document(self, node: Node) -> str:
        """The text of a here-document."""
        body = next((child for child in node.named_children if child.type == "heredoc_body"), None)
        start = next((child for child in node.named_children if child.type == "heredoc_start"), None)
        if body is None:
            return ""
        quoted = start is not None and any(mark in (start.text or b"") for mark in (b"'", b'"', b"\\"))
        raw = self.text.source[body.start_byte : body.end_byte].decode("utf-8", "replace")
        text = raw if quoted else self._words().between(body.start_byte, body.end_byte, expansions(body), document=True)
        if node.children[0].type == "<<-":
            text = re.sub(r"^\t+", "", text, flags=re.MULTILINE)
        return text

    def _simple(self, node: Node) -> Status:
        return self._command(node)

    def _command(self, node: Node, document: str = "", extra: Sequence[Node] = ()) -> Status:
        before: dict[str, Value | None] = {}
        assigned = [child for child in node.named_children if child.type == "variable_assignment"]
        name_at = next((child.start_byte for child in node.children if child.type == "command_name"), node.end_byte)
        if assigned and b"\n" in self.text.source[assigned[-1].end_byte : name_at].replace(b"\\\n", b""):
            for child in assigned:  # the grammar takes the next line for their command
                self._assign(child)
            assigned = []
        for child in assigned:
            name = (child.children[0].text or b"").decode().partition("[")[0]
            before.setdefault(name, self.state.values.get(name))
        expanded = self._words()  # `A=1 cmd $A` takes the older A
        nodes = [*_word_nodes(node), *extra]
        words = expanded.of(nodes)
        for child in assigned:
            self._assign(child)
        if not words:
            return True
        try:
            return self._run(node, words, document, frozenset(before))
        finally:
            for name, value in before.items():
                if value is None:
                    self.state.values.pop(name, None)
                else:
                    self.state.values[name] = value

    def _run(self, node: Node, words: list[Raw], document: str, given: frozenset[str]) -> Status:
        while len(words) > 1 and words[0][0] in PLAIN_PREFIX:
            words = words[1:]
        name = words[0][0].rpartition("/")[2] if not has(words[0][0]) else ""
        arguments = [text for text, _, _ in words[1:]]
        if name in self.state.functions:
            return self._call(name, arguments)
        builtin = _BUILTINS.get(name)
        if builtin is not None:
            status: Status = builtin(self, arguments, document, self._line(node))
            return status
        if name in PRINTS:
            if self.printed:
                self.printed[-1].append(self._output(name, arguments, document))
            if name in ("echo", "printf"):
                return True
        elif self.printed:
            self.printed[-1].append(None)
        self._met(node, words, document, given)
        if name == "exec" and arguments:
            self.state.flow = "exit"
        return PRESUMED

    def _met(self, node: Node, words: list[Raw], document: str, given: frozenset[str]) -> None:
        """A command that a run would start, and the scripts in its words and its input."""
        line = self._line(node)
        outer = self.text.outer
        self.number_of_words += len(words) + len(outer)
        if self.number_of_words > WORDS:
            raise ValueError(f"it has more than {WORDS} words")
        state = self.state.fork()
        state.unread = self.state.unread
        self.found.append(
            _Found(line, words, list(outer), state, self.inside[-1] if self.inside else None, frozenset(self.state.exported | given))
        )  # fmt: skip
        if PROGRAM in document:
            self._nested(document, line + 1, [*outer, *words])
        if not any(text.endswith(PROGRAM) for text, _, _ in words):
            for index, (text, _, _) in enumerate(words):
                if PROGRAM in text and any(one.isspace() for one in text):
                    self._nested(text, line, [*outer, *words[:index]])

    def _nested(self, text: str, line: int, outer: list[Raw]) -> None:
        """The commands of a text that may be a script. outer: words in front of it."""
        if self.scripts >= SCRIPTS:
            return
        start, depth = self.state, self.depth
        self.state = start.fork()
        self.scripts += 1
        count = len(self.found)
        try:
            self.read(text, line, outer)
        except ValueError:
            del self.found[count:]  # a text of another kind
        finally:
            self.scripts -= 1
            self.state, self.depth = start, depth

    def _call(self, name: str, arguments: list[str]) -> Status:
        if self.scripts >= SCRIPTS:
            return PRESUMED
        body, source = self.state.functions[name]
        before, self.state.parameters = self.state.parameters, arguments
        text = self.text
        self.text = replace(text, source=source)
        self.scripts += 1
        try:
            status = self.statement(body)
        finally:
            self.scripts -= 1
            self.text = text
            self.state.parameters = before
            if self.state.flow == "return":
                self.state.flow = ""
        return status

    def _substitution(self, node: Node) -> str | None:
        """What `$(...)` prints, where that is decided by the text."""
        if self.scripts >= SCRIPTS:
            raise ValueError("its brackets are nested too deeply")
        start, depth, text = self.state, self.depth, self.text
        self.state = start.fork()
        self.printed.append([])
        self.scripts += 1
        try:
            self._statements(node)
        finally:
            printed = self.printed.pop()
            self.scripts -= 1
            self.state, self.depth, self.text = start, depth, text
        if not printed or any(piece is None for piece in printed):
            return None
        return "".join(str(piece) for piece in printed)

    def _output(self, name: str, arguments: list[str], document: str) -> str | None:
        """What a command prints whose words say it all."""
        if name == "echo":
            words = arguments[1:] if arguments[:1] in (["-n"], ["-e"]) else arguments
            return " ".join(words) + "\n"
        if name == "printf":
            plain = {"%s": 0, "%d": 0, "%s\\n": 0, "%d\\n": 0}
            return arguments[1] if len(arguments) == 2 and arguments[0] in plain else None
        if name == "pwd":
            return self.state.folder
        if name == "cat":
            return document if not arguments and document else None
        if any(has(one) for one in arguments):
            return None
        plain_words = [one for one in arguments if not one.startswith("-")]
        if name == "expr" and len(arguments) == 3:
            value = shell_tests.integer(" ".join(arguments), lambda _: None, lambda *_: None)
            return None if value is None else str(value)
        if name == "seq" and all(is_count(one) and len(one) < 4 for one in arguments) and 1 <= len(arguments) <= 2:
            first, last = ([1] if len(arguments) == 1 else []) + [int(one) for one in arguments]
            return "\n".join(map(str, range(first, last + 1)))
        if len(plain_words) != 1:
            return None
        path = plain_words[0]
        if name == "dirname":
            return path.rpartition("/")[0] or "."
        if name == "basename":
            return None if SCRIPT in path else path.rstrip("/").rpartition("/")[2]
        return self._place(path) if name in ("realpath", "readlink") else None

    def _place(self, path: str) -> str | None:
        """A path from the root on; None if nobody knows from where it counts."""
        if path.startswith("/"):
            return path
        start = self.state.folder or (str(self.folder) if self.folder is not None else None)
        return None if start is None else str(Path(start, path))

    # built-in commands: (words, the text of a here-document, line) -> status

    def _cd(self, arguments: list[str], _: str, __: int) -> Status:
        self.state.folder = self._place(arguments[0]) if len(arguments) == 1 and not has(arguments[0]) else None
        return PRESUMED

    def _ends(self, arguments: list[str], _: str, __: int) -> Status:
        self.state.flow = "exit"
        return not arguments or arguments[0] == "0"

    def _returns(self, arguments: list[str], _: str, __: int) -> Status:
        self.state.flow = "return"
        return True if not arguments or arguments[0] == "0" else None if has(arguments[0]) else False

    def _breaks(self, _: list[str], __: str, ___: int) -> Status:
        self.state.flow = "break"
        return True

    def _continues(self, _: list[str], __: str, ___: int) -> Status:
        self.state.flow = "continue"
        return True

    def _shift(self, arguments: list[str], _: str, __: int) -> Status:
        count = int(arguments[0]) if arguments and is_count(arguments[0]) and len(arguments[0]) < 6 else 1
        if self.state.parameters is not None:
            self.state.parameters = self.state.parameters[count:]
        return True

    def _set(self, arguments: list[str], _: str, __: int) -> Status:
        if "--" in arguments:
            self.state.parameters = arguments[arguments.index("--") + 1 :]
        elif arguments and arguments[0][:1] not in ("-", "+"):
            self.state.parameters = list(arguments)
        return True

    def _tested(self, arguments: list[str], _: str, __: int) -> Status:
        return shell_tests.holds(arguments)

    def _let(self, arguments: list[str], _: str, __: int) -> Status:
        value: int | None = None
        for one in arguments:
            value = self._words().integer(one)
            name = re.match(r"\s*([A-Za-z_]\w*)\s*[-+*/%]?=", one)
            if value is None and name:
                self.state.values[name[1]] = self.holes.unknown(f"${name[1]}", filled=True)
        return None if value is None else bool(value)

    def _reads(self, arguments: list[str], document: str, line: int) -> Status:
        names = [one for one in arguments if one.isidentifier()]
        for name in names:
            self.state.values[name] = self.holes.unknown(f"${name}", filled=True)
        if names and document:
            self.state.values[names[-1]] = document
        return None

    def _eval(self, arguments: list[str], _: str, line: int) -> Status:
        if self.scripts < SCRIPTS:
            self.scripts += 1
            try:
                self.read(" ".join(arguments), line, self.text.outer)
            except ValueError as error:
                if "cannot be read" not in str(error):
                    raise
            finally:
                self.scripts -= 1
        return PRESUMED

    def _source(self, arguments: list[str], _: str, line: int) -> Status:
        """A file of the same folder is read where it is sourced; what another holds is not known from there on."""
        if not arguments:
            return PRESUMED
        name = self.holes.spelt(arguments[0])
        text = self._beside(arguments[0])
        if text is None or self.scripts >= SCRIPTS:
            self.state.unread = f"{name}, sourced on line {line}"
            return PRESUMED
        before, self.text = self.text, replace(self.text)
        self.scripts += 1
        try:
            self.read(text)
        except ValueError:
            self.state.unread = f"{name}, sourced on line {line}"
        finally:
            self.text = before
            self.scripts -= 1
            if self.state.flow == "return":
                self.state.flow = ""
        return PRESUMED

    def _beside(self, path: str) -> str | None:
        """The content of a file inside the script's folder."""
        if self.folder is None or has(path) or "\0" in path:
            return None
        root = self.folder.resolve()
        try:
            file = Path(self._place(path) or path).resolve()
            if not file.is_relative_to(root) or not file.is_file() or file.stat().st_size > BYTES:
                return None
            return file.read_text()
        except (OSError, ValueError):
            return None

    def _nothing(self, _: list[str], __: str, ___: int) -> Status:
        return True

    def _fails(self, _: list[str], __: str, ___: int) -> Status:
        return False


_HANDLERS = {
    "program": _Reader._statements, "list": _Reader._list, "if_statement": _Reader._if, "case_statement": _Reader._case,
    "for_statement": _Reader._for, "c_style_for_statement": _Reader._c_for, "while_statement": _Reader._while,
    "function_definition": _Reader._function, "subshell": _Reader._apart, "pipeline": _Reader._apart,
    "negated_command": _Reader._not, "compound_statement": _Reader._group, "do_group": _Reader._statements,
    "test_command": _Reader._test, "variable_assignment": _Reader._assignments, "variable_assignments": _Reader._assignments,
    "declaration_command": _Reader._declare, "unset_command": _Reader._unset, "redirected_statement": _Reader._redirected,
    "command": _Reader._simple,
}  # fmt: skip
_COMPOUND = frozenset(
    {"list", "if_statement", "case_statement", "for_statement", "c_style_for_statement", "while_statement", "function_definition",
     "subshell", "pipeline", "compound_statement", "do_group", "redirected_statement", "program"}
)  # fmt: skip
_BUILTINS = {
    "cd": _Reader._cd, "exit": _Reader._ends, "return": _Reader._returns, "break": _Reader._breaks, "continue": _Reader._continues,
    "shift": _Reader._shift, "set": _Reader._set, "test": _Reader._tested, "let": _Reader._let, "read": _Reader._reads,
    "mapfile": _Reader._reads, "readarray": _Reader._reads, "getopts": _Reader._reads, "eval": _Reader._eval,
    "source": _Reader._source, ".": _Reader._source, "true": _Reader._nothing, ":": _Reader._nothing, "trap": _Reader._nothing,
    "shopt": _Reader._nothing, "ulimit": _Reader._nothing, "false": _Reader._fails,
}  # fmt: skip


class _Variables(Mapping[str, str]):
    """Variables as text; each is spelt when it is asked for."""

    def __init__(self, values: Mapping[str, Value], holes: Holes, choice: dict[int, int]) -> None:
        self._values, self._holes, self._choice = values, holes, choice

    def __getitem__(self, name: str) -> str:
        text = self._holes.chosen(_flat(self._values[name]), self._choice)
        return self._holes.spelt(text).replace(BETWEEN, " ")

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def _flat(value: Value) -> str:
    return value if isinstance(value, str) else " ".join(value.values() if isinstance(value, dict) else value.items)


def _adds(node: Node) -> bool:
    return node.parent is not None and any(child.type == "+=" for child in node.parent.children)


def _word_nodes(node: Node) -> list[Node]:
    """The words of a command."""
    words: list[Node] = []
    for child in node.children:
        if child.type == "command_name":
            words += child.children or [child]
        elif child.type in WORD_NODES:
            words.append(child)
    return words


def _arms(node: Node) -> list[tuple[list[Node], list[Node], int]]:
    """(condition, statements, line) of `if`, each `elif` and `else`, in their order."""
    arms: list[tuple[list[Node], list[Node], int]] = []
    condition: list[Node] = []
    body: list[Node] = []
    seen_then = False
    for child in node.children:
        if child.type == "then":
            seen_then = True
        elif child.type in ("elif_clause", "else_clause"):
            arms += (
                _arms(child)
                if child.type == "elif_clause"
                else [([], list(child.named_children), child.start_point.row)]
            )
        elif child.is_named and child.type != "comment":
            (body if seen_then else condition).append(child)
    return [(condition, body, node.start_point.row), *arms]


def _first_error(node: Node) -> Node:
    while True:
        inner = next(
            (child for child in node.children if child.type == "ERROR" or child.is_missing or child.has_error), None
        )
        if inner is None:
            return node
        node = inner

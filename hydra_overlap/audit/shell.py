"""The commands of a shell script, read and not run: quotes, comments, here-documents, assignments, plain expansions.

Conditions and loops are not followed: each assignment in the text counts, the last one last, and a command says which of
its variables were set under one. What a command would print is not known; such words keep their `$`.
"""

import re
import shlex
from bisect import bisect_left
from dataclasses import dataclass, field, replace
from typing import NoReturn

ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)(\[[^]\n]*\])?(\+?)=")
KEYWORD = re.compile(
    r"(if|then|elif|else|fi|for|while|until|do|done|case|esac|select|function|time|\{|\}|!)(?=[\s;&|()<>]|$)"
)
OPENING, CLOSING = ("if", "for", "while", "until", "case", "select", "{"), ("fi", "done", "esac", "}")
NAMED = re.compile(r"\s+([A-Za-z_]\w*)")  # what `for` sets, what `function` defines
PARAMETER = re.compile(r"\$(?:\{([!#]?)(\w+|[@*])(\[[@*]\])?|([A-Za-z_]\w*|[0-9@*#?$!-]))")
ALTERNATIVE = re.compile(r":?[-=+?]")  # of `${NAME:-other}`
REDIRECTION = re.compile(r"<<<|&>>?|[<>]>?[&|]?")
DOCUMENT = re.compile(r"<<(?!<)(-?)[ \t]*((?:\\.|'[^'\n]*'|\"[^\"\n]*\"|[^\s;&|()<>\\'\"])+)")
BRACKETS = re.compile(r"\\.|'[^']*'|\"(?:\\.|[^\"\\])*\"|[()]", re.DOTALL)
ANSI = re.compile(r"\$'((?:\\.|[^'\\])*)'", re.DOTALL)
ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}  # in $'...'; another character stands for itself
BLANK, ENDS_WORD = " \t", " \t\n;&|()<>"
DECLARES = ("export", "declare", "local", "readonly", "typeset")
PRINTS = ("echo", "printf")  # their words are text, whatever it looks like
PROGRAM = ".py"  # a text without one is not looked into
TESTS = ("[", "[[", "test")
DEPTH = 8  # scripts in words of scripts
WIDTH = 60  # columns of a value that is shown
LENGTH = 1_000_000  # characters of one value; `A=$A$A` doubles it


@dataclass
class Command:
    """words: expanded. outer: words of the command it is an argument or the input of (`srun bash -c "..."`).

    variables: those known where it stands, assignments before its first word included. branches: name -> line, of those in
    it that were set under a condition or in a loop. inside: line of the condition or loop around the command.
    """

    line: int
    words: list[str] = field(default_factory=list)
    outer: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    branches: dict[str, int] = field(default_factory=dict)
    inside: int | None = None
    documents: list[str] = field(default_factory=list)


@dataclass
class Script:
    """commands: in the order of the text, those left out that only print. variables: their last values. directives: `#SBATCH` words."""

    commands: list[Command] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    directives: list[str] = field(default_factory=list)


def read(text: str) -> Script:
    """Raises ValueError, with the line, on a quote or bracket that is never closed."""
    text = text.replace("\r\n", "\n")
    reader = _Reader(text)
    try:
        reader.read()
    except RecursionError:
        raise ValueError("its brackets are nested too deeply") from None
    script = Script(reader.commands, {name: " ".join(words) for name, words in reader.known.values.items()})
    for line in text.splitlines():
        if line.startswith("#SBATCH"):
            script.directives += shlex.split(line.removeprefix("#SBATCH"), comments=True)
    return script


def conditions(command: Command) -> tuple[str, ...]:
    """What is true of the command only if the conditions around it, and around what it uses, turn out so."""
    notes = []
    if command.branches:
        set_there = "; ".join(
            f"{name}={_short(command.variables.get(name))} (line {line})" for name, line in command.branches.items()
        )
        notes.append(f"conditions and loops are not followed; the last assignment in the text is used: {set_there}")
    if command.inside is not None:
        notes.append(f"line {command.line} is inside a condition or loop that starts on line {command.inside}")
    return tuple(notes)


def _short(value: str | None) -> str:
    text = "?" if value is None else " ".join(value.split())
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 3]}..."


@dataclass
class _Known:
    """values: variable -> its words, of an array several. branches: variable -> as in `Command`."""

    values: dict[str, list[str]] = field(default_factory=dict)
    branches: dict[str, dict[str, int]] = field(default_factory=dict)

    def copy(self) -> "_Known":
        return _Known(dict(self.values), dict(self.branches))


class _Reader:
    """One pass over a text. A word is expanded where it stands, with what is known there."""

    def __init__(self, text: str, line: int = 1, known: _Known | None = None, depth: int = 0) -> None:
        self.text, self.first_line, self.known, self.depth = text, line, known or _Known(), depth
        self.newlines = [found.start() for found in re.finditer("\n", text)]
        self.at = 0
        self.commands: list[Command] = []
        self.command: Command | None = None
        self.replaced: dict[str, list[str] | None] = {}  # by assignments before the command's first word
        self.used: dict[str, int] = {}  # branches of what the word in hand expands
        self.open: list[int | None] = []  # lines of the conditions and loops around; None for a plain group
        self.listed: int | None = None  # line of the `||`, or of the `&&` after a test, before the command
        self.tested = False
        self.redirected = False  # the next word is a file
        self.waiting: list[tuple[Command, re.Match[str]]] = []  # here-documents of the line

    def read(self, *, substitution: bool = False) -> None:
        """To the end of the text, or past the bracket that closes the substitution."""
        brackets = 0
        while self.at < len(self.text):
            here = self.text[self.at]
            if here in BLANK:
                self.at += 1
            elif self.text.startswith("\\\n", self.at):
                self.at += 2
            elif here == "#":
                self.at = self._end_of_line()
            elif here == "\n":
                if self.command or self.replaced:  # else a list goes on: `a ||`
                    self._end()
                    self.tested = False
                self.at += 1
                self._documents()
            elif here == ")" and substitution and not brackets:
                break
            elif here in ENDS_WORD:
                brackets += (here == "(") - (here == ")")
                self._operator(here)
            else:
                self._word()
        else:
            if substitution:
                self._unclosed("bracket", self.at)
        self._end()

    # words

    def _word(self) -> None:
        start, before = self.at, self.command.words if self.command else []
        first = not before
        keyword = KEYWORD.match(self.text, self.at) if first and not self.redirected else None
        if keyword:
            self._keyword(keyword[1])
            return
        assigns = (first or before[0] in DECLARES) and not self.redirected
        assigned = ASSIGNMENT.match(self.text, self.at) if assigns else None
        if assigned:
            self._assignment(assigned, before_command=first)
            return
        words = self._fields()
        descriptor = self.text[start : self.at].isdigit() and self.text[self.at : self.at + 1] in ("<", ">")
        if not self.redirected and not descriptor:
            command = self._begun(start)
            command.words += words
            command.branches |= self.used
        self.redirected, self.used = False, {}

    def _begun(self, at: int) -> Command:
        self.command = self.command or Command(self._line(at))
        return self.command

    def _fields(self, ends: str = ENDS_WORD, *, split: bool = True) -> list[str]:
        """The words that one word of the text becomes: none, one or several."""
        start, quoted = self.at, False
        done: list[str] = []
        now: str | None = None
        while self.at < len(self.text):
            here, after = self.text[self.at], self.text[self.at + 1 : self.at + 2]
            if not quoted and here in ends:
                break
            if here == '"':
                quoted = not quoted
                self.at += 1
                if quoted and after == '"':
                    now = now or ""
            elif here == "\\" and (not quoted or after in ("$", "`", '"', "\\", "\n")):
                self.at += 2
                now = now if after == "\n" else (now or "") + after
            elif here == "'" and not quoted:
                now = (now or "") + self._to("'")
            elif here == "$" and after == "'" and not quoted:
                now = (now or "") + self._ansi()
            elif here == "$" and after == '"' and not quoted:
                self.at += 1
            elif here in "$`":
                for index, piece in enumerate(self._expansion(whole=quoted or not split)):
                    if index:
                        done += [] if now is None else [now]
                        now = None
                    if piece or quoted:
                        now = (now or "") + piece
            else:
                now = (now or "") + here
                self.at += 1
            if now is not None and len(now) > LENGTH:
                raise ValueError(f"line {self._line(start)}: a word becomes longer than {LENGTH} characters")
        if quoted:
            self._unclosed("quote", start)
        return done if now is None else [*done, now]

    def _to(self, mark: str) -> str:
        """The text up to the next `mark`, as it stands."""
        end = self.text.find(mark, self.at + 1)
        if end < 0:
            self._unclosed("quote", self.at)
        text, self.at = self.text[self.at + 1 : end], end + 1
        return text

    def _ansi(self) -> str:
        """The text of $'...'."""
        found = ANSI.match(self.text, self.at)
        if found is None:
            self._unclosed("quote", self.at)
        self.at = found.end()
        return re.sub(r"\\(.)", lambda match: ESCAPES.get(match[1], match[1]), found[1], flags=re.DOTALL)

    def _expansion(self, *, whole: bool) -> list[str]:
        """What stands at a `$` or backtick: pieces, between which a word ends. whole: not to be split at blanks."""
        start = self.at
        if self.text[self.at] == "`":
            self._to("`")
            return ["$(...)"]
        if self.text.startswith("$((", self.at):
            self.at += 1
            self._skip_brackets()
            return ["$((...))"]
        if self.text.startswith("$(", self.at):
            return _pieces(self._substitution(), whole)
        found = PARAMETER.match(self.text, self.at)
        if found is None:
            self.at += 1
            return ["$"]
        self.at = found.end()
        kind, name, items = found[1], found[2] or found[4], found[3]
        value = self.known.values.get(name)
        self.used |= self.known.branches.get(name, {})
        if found[2]:
            value = self._braced(name, value)
        if value is None or kind:
            return [self.text[start : self.at]]
        if items == "[@]":
            return value if whole else [piece for word in value for piece in word.split()]
        return _pieces(" ".join(value) if items else "".join(value[:1]), whole)

    def _braced(self, name: str, value: list[str] | None) -> list[str] | None:
        """The rest of `${NAME...}` with its bracket; None if what it gives is not known."""
        start, how = self.at, ALTERNATIVE.match(self.text, self.at)
        plain = self.text.startswith("}", self.at)
        self.at = how.end() if how else self.at
        other = [" ".join(self._fields("}", split=False))]
        if not self.text.startswith("}", self.at):
            self._unclosed("bracket", start)
        self.at += 1
        if how is None:
            return value if plain else None
        known = value is not None and (how[0][0] != ":" or any(value))
        if how[0][-1] == "+":
            return other if known else [""]
        if how[0][-1] == "=" and not known:
            self.known.values[name] = other
        return value if known else None if how[0][-1] == "?" else other

    def _substitution(self) -> str:
        """`$(...)`: not known, but for the text that `cat` copies from a here-document."""
        inner = _Reader("", self.first_line, self.known.copy(), self.depth)
        inner.text, inner.newlines, inner.at = self.text, self.newlines, self.at + 2
        inner.read(substitution=True)
        self.at = inner.at + 1
        if [command.words for command in inner.commands] == [["cat"]] and inner.commands[0].documents:
            self.used |= inner.commands[0].branches
            return inner.commands[0].documents[0]
        self.commands += inner.commands
        return "$(...)"

    # assignments

    def _assignment(self, found: re.Match[str], *, before_command: bool) -> None:
        name, item, adds = found[1], found[2], found[3]
        line, self.at = self._line(self.at), found.end()
        array, before = self.text.startswith("(", self.at), self.known.values.get(name)
        words = self._array() if array else [" ".join(self._fields(split=False))]
        if before_command:
            self.replaced.setdefault(name, before)
        if adds and before is not None:
            words = [*before, *words] if array else ["".join(before[:1]) + words[0], *before[1:]]
            self.used |= self.known.branches.get(name, {})
        self._set(name, None if item else words, line)

    def _set(self, name: str, words: list[str] | None, line: int) -> None:
        """words: None where the value is not known."""
        inside = self._inside()
        self.known.branches[name] = {**self.used, **({name: line} if inside is not None else {})}
        self.used = {}
        if words is None:
            self.known.values.pop(name, None)
            return
        if sum(map(len, words)) > LENGTH:
            raise ValueError(f"line {line}: {name} becomes longer than {LENGTH} characters")
        self.known.values[name] = words

    def _array(self) -> list[str]:
        start = self.at
        words: list[str] = []
        self.at += 1
        while not self.text.startswith(")", self.at):
            if self.at >= len(self.text):
                self._unclosed("bracket", start)
            if self.text[self.at] == "#":
                self.at = self._end_of_line()
            elif self.text[self.at] in ENDS_WORD:
                self.at += 1
            else:
                words += self._fields()
        self.at += 1
        return words

    # what stands between words

    def _keyword(self, word: str) -> None:
        line = self._line(self.at)
        self.at += len(word)
        named = NAMED.match(self.text, self.at) if word in ("for", "select", "function") else None
        self.at = named.end() if named else self.at
        if word in OPENING:
            self.open.append(self.listed if word == "{" else line)
        elif word in CLOSING and self.open:
            self.open.pop()
        if named and word != "function":
            self._set(named[1], None, line)

    def _operator(self, here: str) -> None:
        document = DOCUMENT.match(self.text, self.at)
        starts_command = self.command is None or not self.command.words
        if document:
            self.waiting.append((self._begun(self.at), document))
            self.at = document.end()
        elif self.text.startswith(("<(", ">("), self.at):
            self.at += 1
            self._skip_brackets()
            self.redirected = False
        elif self.text.startswith("((", self.at) and starts_command:
            self._skip_brackets()
            self.tested = True
        elif here in "<>" or self.text.startswith("&>", self.at):
            found = REDIRECTION.match(self.text, self.at)
            self.at = found.end() if found else self.at + 1
            self.redirected = True
        else:
            self._end()
            operator = self.text[self.at : self.at + 2]
            decides = operator == "||" or (operator == "&&" and self.tested)
            self.listed, self.tested = self._line(self.at) if decides else None, False
            self.at += 2 if operator in ("||", "&&", ";;", "|&") else 1

    def _skip_brackets(self) -> None:
        """Past the bracket that closes the one here."""
        depth = 0
        for found in BRACKETS.finditer(self.text, self.at):
            depth += (found[0] == "(") - (found[0] == ")")
            if not depth:
                self.at = found.end()
                return
        self._unclosed("bracket", self.at)

    def _documents(self) -> None:
        """The here-documents begun on the line above. Each may be a script itself: `sbatch <<EOF`."""
        for command, begin in self.waiting:
            line, rows = self._line(self.at), []
            mark = re.sub(r"[\\'\"]", "", begin[2])
            while self.at < len(self.text):
                end = self._end_of_line()
                row, self.at = self.text[self.at : end], end + 1
                row = row.lstrip("\t") if begin[1] else row
                if row == mark:
                    break
                rows.append(row)
            text = "\n".join(rows)
            command.documents.append(self._expanded(text, command) if mark == begin[2] else text)
            if command.words[:1] == ["read"]:
                self.used = command.branches
                self._set(command.words[-1], command.documents[-1:], line)
            elif PROGRAM in command.documents[-1]:
                self._script(text, line, command, command.words)
        self.waiting = []

    def _expanded(self, text: str, command: Command) -> str:
        """The text of a here-document of `command`, its variables replaced."""
        reader = _Reader('"' + text.replace('"', '\\"') + '"', known=self.known.copy())
        try:
            return " ".join(reader._fields())
        except ValueError:
            return text
        finally:
            command.branches |= reader.used

    def _script(self, text: str, line: int, command: Command, words: list[str]) -> None:
        """The commands of a text that may be a script. words: of `command`, before the text."""
        if self.depth == DEPTH:
            return
        reader = _Reader(text, line, self.known.copy(), self.depth + 1)
        try:
            reader.read()
        except ValueError:
            return  # a text of another kind
        for inner in reader.commands:
            outer, branches = (*words, *inner.outer), {**command.branches, **inner.branches}
            inside = inner.inside or command.inside
            self.commands.append(replace(inner, outer=outer, branches=branches, inside=inside))

    def _end(self) -> None:
        """The command in hand is complete."""
        command, self.command, self.redirected = self.command, None, False
        replaced, self.replaced = self.replaced, {}
        inside, self.listed = self._inside(), None
        if command is None or not command.words:
            return
        command.inside = inside
        command.variables = {name: " ".join(words) for name, words in self.known.values.items()}
        for variable, words in replaced.items():
            self._set(variable, words, command.line)
        name = command.words[0].rpartition("/")[2]
        self.tested = name in TESTS or command.words[-1] == "]]"
        if name in ("unset", "read"):
            for word in filter(str.isidentifier, command.words[1:]):
                self._set(word, [""] if name == "unset" else None, command.line)
        if name == "eval":
            self._script(" ".join(command.words[1:]), command.line, command, [])
            return
        if name in PRINTS:
            return
        self.commands.append(command)
        if not any(word.endswith(PROGRAM) for word in command.words):
            for index, word in enumerate(command.words):
                if PROGRAM in word and any(character.isspace() for character in word):
                    self._script(word, command.line, command, command.words[:index])

    def _inside(self) -> int | None:
        return next((line for line in (self.listed, *reversed(self.open)) if line is not None), None)

    def _line(self, at: int) -> int:
        return self.first_line + bisect_left(self.newlines, at)

    def _end_of_line(self) -> int:
        found = self.text.find("\n", self.at)
        return len(self.text) if found < 0 else found

    def _unclosed(self, what: str, at: int) -> NoReturn:
        raise ValueError(f"line {self._line(at)}: a {what} is never closed")


def _pieces(text: str, whole: bool) -> list[str]:
    """A value as pieces of words: one, or, split at its blanks, with an empty piece where it begins or ends with one."""
    if whole:
        return [text]
    edges = ([""] if edge.isspace() else [] for edge in (text[:1], text[-1:]))
    return [*next(edges), *text.split(), *next(edges)]

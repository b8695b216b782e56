"""The words of a shell script, read and not run: assignments, arrays and plain expansions, nothing else.

Conditions and loops are not followed: the last assignment in the text counts. What a command would print is not known;
such words keep their `$`.
"""

import re
import shlex
from dataclasses import dataclass, field

ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)(\+?)=(.*)", re.DOTALL)
EXPANSION = re.compile(r"\$\{(\w+)(?:\[[@*]\])?(?::?[-=]([^{}]*))?\}|\$(\w+)")
COMMENT = re.compile(r"(?m)(?:^|(?<=\s))#.*$")
PUNCTUATION = frozenset("();<>|&")
DEPTH = 8  # expansions inside expansions


@dataclass
class Script:
    """words: of all commands, in order, expanded. variables: name -> words of its last value. directives: `#SBATCH` words."""

    words: list[str] = field(default_factory=list)
    variables: dict[str, list[str]] = field(default_factory=dict)
    directives: list[str] = field(default_factory=list)


def read(text: str) -> Script:
    """Raises ValueError on an unclosed quote."""
    script = Script()
    for line in text.splitlines():
        if line.startswith("#SBATCH"):
            script.directives += shlex.split(line.removeprefix("#SBATCH"), comments=True)
    tokens = _tokens(COMMENT.sub("", text.replace("\\\n", " ")))
    position = 0
    while position < len(tokens):
        position = _step(tokens, position, script)
    return script


def _tokens(text: str) -> list[str]:
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    return list(lexer)


def _step(tokens: list[str], position: int, script: Script) -> int:
    """Take one word or assignment; -> the next position."""
    token = tokens[position]
    opens = position + 1 < len(tokens) and tokens[position + 1].startswith("(")
    assigned = ASSIGNMENT.fullmatch(token)
    if token.endswith("$") and opens:  # a command's output: not known
        end = _closing(tokens, position + 1)
        script.words.append(token + "(...)")
        return end
    if assigned is None:
        script.words += _expanded(token, script)
        return position + 1
    name, adds, value = assigned.groups()
    if not value and opens:
        end = _closing(tokens, position + 1)
        words = [word for item in tokens[position + 1 : end] for word in _expanded(item, script)]
        words = [word for word in words if not set(word) <= PUNCTUATION]
    else:
        end, words = position + 1, _expanded(value, script)
    script.variables[name] = [*(script.variables.get(name, []) if adds else []), *words]
    return end


def _closing(tokens: list[str], position: int) -> int:
    """The position after the bracket that closes the one at `position`."""
    depth = 0
    while position < len(tokens):
        depth += (
            tokens[position].count("(") - tokens[position].count(")") if set(tokens[position]) <= PUNCTUATION else 0
        )
        position += 1
        if depth <= 0:
            break
    return position


def _expanded(word: str, script: Script) -> list[str]:
    """A word with known variables in it replaced; a text of several words falls into them."""

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[3]
        if name in script.variables:
            return " ".join(script.variables[name])
        return match[0] if match[2] is None else match[2]

    for _ in range(DEPTH):
        found = EXPANSION.sub(value, word)
        if found == word:
            break
        word = found
    if not any(character.isspace() for character in word):
        return [word] if word else []
    try:
        return _tokens(word.replace("\\\n", " "))
    except ValueError:
        return word.split()

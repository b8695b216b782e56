"""Values as text of other languages: in a shell file, in Python, in a comment and on a terminal, a value never ends its place.

One writer for each language. YAML and HTML have theirs in PyYAML's `safe_dump` and in jinja's autoescape.
"""

import keyword
import math
import re
import shlex
from collections.abc import Iterable
from typing import Any

from .findings import visible

_BREAKS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Control characters, separators of lines, and halves of pairs: what Python makes of bytes of a path that are not UTF-8."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ANSI_C = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


class UnwritableError(ValueError):
    """A value that a language has no place for. Whoever lets users choose the value refuses it before it comes here."""


def breaks_lines(text: str) -> bool:
    """Whether a text holds what could end its line or its quotes somewhere: control characters, separators, half characters."""
    return _BREAKS.search(text) is not None


def comment(text: str) -> str:
    """One comment line of a shell file, of Python or of YAML, without its end."""
    return f"# {visible(text)}"


def command(words: Iterable[str]) -> str:
    """A command line on one line, to be pasted into bash: words with characters that would not be seen are `$'...'`."""
    return " ".join(shlex.quote(word) if word.isprintable() else _ansi_c(word) for word in words)


def shell_export(name: str, value: str) -> str:
    """`export NAME=value` of a POSIX shell. Raises UnwritableError for a name that is none, and for a value on several lines."""
    if not _VARIABLE.fullmatch(name) or breaks_lines(value):
        raise UnwritableError(f"{visible(name)}={visible(value)} is no variable of a shell file")
    return f"export {name}={shlex.quote(value)}"


def python_literal(value: Any) -> str:
    """Plain data as a Python expression in ASCII. Raises UnwritableError for what is no plain data."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"float({str(value)!r})"
    if value is None or isinstance(value, (bool, int, float, str)):
        return ascii(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(python_literal, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{python_literal(key)}: {python_literal(item)}' for key, item in value.items())}}}"
    raise UnwritableError(f"{type(value).__name__} is no plain data")


def python_name(text: str) -> str:
    """A name or dotted name of Python, as it is. Raises UnwritableError for any other text."""
    if not all(part.isidentifier() and not keyword.iskeyword(part) for part in text.split(".")):
        raise UnwritableError(f"{visible(text)} is no name in Python")
    return text


def _ansi_c(word: str) -> str:
    parts = (_ANSI_C.get(char) or (char if char.isprintable() else _bytes(char)) for char in word)
    return f"$'{''.join(parts)}'"


def _bytes(char: str) -> str:
    of_a_byte = 0xDC80 <= ord(char) <= 0xDCFF  # as Python keeps bytes that are not UTF-8
    return "".join(
        f"\\{byte:03o}" for byte in char.encode("utf-8", "surrogateescape" if of_a_byte else "surrogatepass")
    )

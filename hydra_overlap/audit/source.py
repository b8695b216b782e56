"""The text of an audited file: regular files alone, within bounds, in UTF-8."""

import os
import stat
import sys
from pathlib import Path

from .intake import UnreadableError

BYTES = 10_000_000  # of a file or of standard input; the longest launch file of 1,543 public ones has 60 kB
STANDARD_INPUT = "-"


def read(name: str) -> tuple[str, Path]:
    """(the text of a file or, for `-`, of standard input; the folder in which files that it names are looked for).

    Raises UnreadableError with a sentence: no such file, no regular file, too long, not UTF-8.
    """
    if name == STANDARD_INPUT:
        return _decoded(sys.stdin.buffer.read(BYTES + 1), "Standard input"), Path.cwd()
    return _decoded(_content(name), name), Path(name).parent


def _content(name: str) -> bytes:
    try:
        # O_NONBLOCK: a pipe without a writer would be waited for.
        descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError:
        raise UnreadableError("The name of the file has a NUL character in it.") from None
    except FileNotFoundError:
        raise UnreadableError(f"There is no file {name}.") from None
    except OSError as error:
        raise UnreadableError(f"{_shown(name)} cannot be read: {error.strerror}.") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise UnreadableError(f"{name} is not a regular file.")
    with open(descriptor, "rb") as file:
        if status.st_size > BYTES:
            raise UnreadableError(f"{name} is longer than {BYTES // 1_000_000} MB.")
        try:
            return file.read(BYTES + 1) if status.st_size else _unsized(name)
        except OSError as error:
            raise UnreadableError(f"{name} cannot be read: {error.strerror}.") from None


def _unsized(name: str) -> bytes:
    """An empty file; what the kernel makes up on the spot (/proc, /sys) has no size either and may never end."""
    if Path(name).resolve().is_relative_to("/proc") or Path(name).resolve().is_relative_to("/sys"):
        raise UnreadableError(f"{name} is not a regular file.")
    return b""


def _shown(name: str) -> str:
    return name if len(name) <= 100 else f"{name[:97]}..."


def _decoded(content: bytes, name: str) -> str:
    if len(content) > BYTES:
        raise UnreadableError(f"{name} is longer than {BYTES // 1_000_000} MB.")
    if b"\0" in content:
        what = "UTF-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "NUL characters"
        raise UnreadableError(f"{name} is not a text file in UTF-8: it has {what} in it.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UnreadableError(
            f"{name} is not a text file in UTF-8: line {line} has the byte 0x{content[error.start]:02x}."
        ) from None

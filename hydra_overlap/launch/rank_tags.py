"""Lines that tell their rank: `[rank 3] ...`, for what several ranks write to one terminal or one log.

Tagged is what Python writes, warnings and tracebacks included. What C++ libraries write past it keeps their own form
(NCCL_DEBUG names host and rank itself).
"""

import sys
from typing import Any, TextIO


class Tagged:
    """A text stream that puts a tag before every line, but those of torch's own tracebacks, which have one."""

    def __init__(self, stream: TextIO, tag: str) -> None:
        self._stream, self._tag = stream, tag
        self._begins = True

    def write(self, text: str) -> int:
        """As that of a stream."""
        for line in text.splitlines(keepends=True):
            self._stream.write(f"{self._tag}{line}" if self._begins and not line.startswith("[rank") else line)
            self._begins = line.endswith("\n")
        return len(text)

    def isatty(self) -> bool:
        """Never: nothing draws over lines that others write between."""
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def tag(rank: int) -> None:
    """Tag what this rank writes from now on. Rank 0's output is the run's own report and stays as it is; its errors do not."""
    streams: Any = sys
    streams.stderr = Tagged(sys.stderr, f"[rank {rank}] ")
    if rank:
        streams.stdout = Tagged(sys.stdout, f"[rank {rank}] ")

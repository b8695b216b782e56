"""Where the streams of this process go, those of C++ libraries included."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def redirected(files: Mapping[int, int]) -> Iterator[None]:
    """Within, streams (1 output, 2 errors) go to open files, given by their descriptors; afterwards where they went before."""
    _flush()
    before = {stream: os.dup(stream) for stream in files}
    try:
        for stream, file in files.items():
            os.dup2(file, stream)
        yield
    finally:
        _flush()
        for stream, copy in before.items():
            os.dup2(copy, stream)
            os.close(copy)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()

"""Files that are whole at every moment: whoever opens one reads the old content or the new, never half of it."""

import json
import os
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> Path:
    """Write a UTF-8 file whole, or leave what was there; -> the file. Its permissions are those of any new file.

    What UTF-8 has no bytes for, as in the name of a folder that is not UTF-8 itself, is written as its escape.

    Written beside the file under a name of its own and renamed, so that processes, hosts and threads may write the same file
    at once: one of them comes last. Raises OSError, and then leaves nothing beside it.
    """
    draft = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    try:
        draft.write_text(text, encoding="utf-8", errors="backslashreplace")
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return path


def write_json(path: Path, value: Any, *, allow_nan: bool = False) -> Path:
    """Write plain data as JSON, whole; -> the file.

    allow_nan: write NaN and infinity, which JSON has no words for, as Python's own reader reads them; else ValueError.
    """
    return write_text(path, json.dumps(value, indent=1, allow_nan=allow_nan))


def read_json(path: Path) -> dict[str, Any]:
    """What a JSON file holds; empty where there is no such file, or no JSON object in it."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

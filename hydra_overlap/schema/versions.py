"""Comparing versions that may be absent."""

from functools import lru_cache

from packaging.version import Version


@lru_cache(maxsize=256)
def _parse(text: str) -> Version:
    return Version(text)


def at_least(installed: str | None, wanted: str) -> bool:
    """Whether `installed` is `wanted` or newer; nothing installed is older than everything.

    Raises packaging.version.InvalidVersion if `installed` is no version (rule CFG004 refuses that before).
    """
    return installed is not None and _parse(installed) >= _parse(wanted)

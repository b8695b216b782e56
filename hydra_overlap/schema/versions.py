"""Versions of packages, which may be absent: compared, and told from other texts."""

from functools import lru_cache

from packaging.version import InvalidVersion, Version


@lru_cache(maxsize=256)
def _parse(text: str) -> Version:
    return Version(text)


def at_least(installed: str | None, wanted: str) -> bool:
    """Whether `installed` is `wanted` or newer; nothing installed is older than everything.

    Raises packaging.version.InvalidVersion if `installed` is no version (rule CFG004 refuses that before).
    """
    return installed is not None and _parse(installed) >= _parse(wanted)


def is_version(text: str) -> bool:
    """Whether a text is a version as PEP 440 writes them."""
    try:
        _parse(text)
    except InvalidVersion:
        return False
    return True

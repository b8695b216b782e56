"""Communication overlap for Megatron as Hydra config groups: refused at composition, or in effect.

Importing this package loads neither torch nor megatron-core nor hydra; each name loads its module when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .compose.app import cli as run_app
    from .compose.check import check
    from .compose.enforce import judged, refusal_in
    from .errors import GatingError, HydraOverlapError, LaunchError
    from .findings import Finding, Fix
    from .resolver.ledger import LedgerRow
    from .resolver.resolution import ApplyError, Resolution
    from .resolver.resolve import resolve

_HOMES = {
    "ApplyError": ".resolver.resolution",
    "Finding": ".findings",
    "Fix": ".findings",
    "GatingError": ".errors",
    "HydraOverlapError": ".errors",
    "LaunchError": ".errors",
    "LedgerRow": ".resolver.ledger",
    "Resolution": ".resolver.resolution",
    "check": ".compose.check",
    "judged": ".compose.enforce",
    "refusal_in": ".compose.enforce",
    "resolve": ".resolver.resolve",
    "run_app": ".compose.app:cli",
}

__all__ = [
    "ApplyError",
    "Finding",
    "Fix",
    "GatingError",
    "HydraOverlapError",
    "LaunchError",
    "LedgerRow",
    "Resolution",
    "__version__",
    "check",
    "judged",
    "refusal_in",
    "resolve",
    "run_app",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, original = _HOMES[name].partition(":")
    found = getattr(import_module(module, __name__), original or name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

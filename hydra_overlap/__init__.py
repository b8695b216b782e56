"""Communication overlap for Megatron as Hydra config groups: refused at composition, or in effect.

Importing this package loads neither torch nor megatron-core nor hydra.
"""

from ._version import __version__
from .errors import GatingError, HydraOverlapError, LaunchError
from .findings import Finding, Fix
from .resolution import ApplyError, LedgerRow, Resolution
from .resolve import resolve

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
    "resolve",
]

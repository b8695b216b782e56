"""Other people's configurations, judged by our rules: read as text or as a launch stands, mapped to a request.

Names are imported when they are first used: `record` imports this package in the place of every launcher.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .intake import Intake, UnreadableError
    from .verdict import Audit, Audits, audit, judged

__all__ = ["Audit", "Audits", "Intake", "UnreadableError", "audit", "judged"]

_HOMES = {"Intake": "intake", "UnreadableError": "intake", "Audit": "verdict", "Audits": "verdict", "audit": "verdict", "judged": "verdict"}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)

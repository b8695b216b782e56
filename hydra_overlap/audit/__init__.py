"""Other people's configurations, judged by our rules: read as text, mapped to a request, never executed."""

from ._base import Intake, UnreadableError
from .report import Audit, audit, judged

__all__ = ["Audit", "Intake", "UnreadableError", "audit", "judged"]

"""Other people's configurations, judged by our rules: read as text, mapped to a request, never executed."""

from .intake import Intake, UnreadableError
from .verdict import Audit, Audits, audit, judged

__all__ = ["Audit", "Audits", "Intake", "UnreadableError", "audit", "judged"]

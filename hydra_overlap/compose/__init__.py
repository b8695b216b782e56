"""All that knows Hydra: the rules enforced at the end of every composition, and what a composed config says.

enforce         judges the finished config, writes the answer into it, refuses
extract         a config that is being composed -> the plain request, facts and preset filled in
overrides       the overrides of a job, as written and parsed
key_mapping     fixes in a host app's own names (`overlap.reads`)
interpolations  which values are known only in the job
pitfalls        what Hydra lets through without a word, refused
hydra_errors    mistakes that Hydra reports, told with the way out
origins         where each value came from
app             a `hydra.main` function as a command
check           judging a command line without running it
"""

import warnings
from typing import Any

_MOVED = ("judged", "refusal_in")  # of `hydra_overlap` itself now; here until 1.0


def __getattr__(name: str) -> Any:
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import enforce

    text = f"hydra_overlap.compose.{name} has moved: use `from hydra_overlap import {name}`."
    warnings.warn(text, DeprecationWarning, stacklevel=2)
    return getattr(enforce, name)

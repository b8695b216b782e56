"""A plan: everything a run needs, frozen. One parent makes it and writes it as JSON; every rank reads it and decides nothing.

plan.json has these keys, and a plan these fields of the same names:

request      the complete request that was judged, nested as in schema.Request (of a rehearsal: shrunk)
resolution   Resolution.to_dict()
rehearsal    None on GPUs; else what was shrunk, replaced and left out (megatron/rehearsal.py)
overrides    what stood on the command line
config       the whole composed config as YAML
output_dir   one directory for all ranks
data_prefix  tokenised data, without `.bin` and `.idx`; None for mock data
began        when the plan was made, then when its run began, ISO 8601
"""

import copy
import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .. import commands, dotted, files
from ..errors import LaunchError
from ..findings import Finding
from ..resolver.resolution import Resolution
from ..schema.nodes import Request
from . import RANK_PLAN

if TYPE_CHECKING:
    from cattrs import Converter

FILE_NAME = "plan.json"
SCALARS = (bool, int, float, str)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Change:
    """One value a rehearsal does not take from the plan."""

    key: str
    planned: Any
    rehearsed: Any
    reason: str


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """What differs between a plan and the rehearsal of it.

    not_exercised: a line for each thing that is left out. arithmetic: a line for what is computed otherwise than planned.
    """

    shrunk: tuple[Change, ...]
    replaced: tuple[Change, ...]
    not_exercised: tuple[str, ...]
    arithmetic: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything a run needs; what each field holds is said at the top of this module."""

    resolution: Resolution
    rehearsal: Rehearsal | None = None
    overrides: tuple[str, ...]
    config: str
    output_dir: str
    data_prefix: str | None = None
    began: str

    @cached_property
    def request(self) -> Request:
        """The request of the resolution, typed. To change it, make another plan: `with_values`."""
        return _converter().structure(self.resolution.request, Request)

    def with_values(self, values: Mapping[str, Any]) -> "Plan":
        """This plan with other values in its request. values: by flat key, as in `model.hidden_size`."""
        request = copy.deepcopy(self.resolution.request)
        for key, value in values.items():
            dotted.put(request, key, value)
        return dataclasses.replace(self, resolution=dataclasses.replace(self.resolution, request=request))

    def with_settings(self, values: Mapping[str, Mapping[str, Any]]) -> "Plan":
        """This plan with other values in the resolution's `settings`: name of the dict -> field -> value."""
        merged: dict[str, Any] = {
            name: {**settings, **values.get(name, {})} for name, settings in self.resolution.settings.items()
        }
        return dataclasses.replace(self, resolution=dataclasses.replace(self.resolution, **merged))


def make(resolution: Resolution, *, overrides: list[str], config: str, output_dir: Path) -> Plan:
    """The plan of a resolution, before the machine had its say."""
    return Plan(
        resolution=resolution, overrides=tuple(overrides), config=config, output_dir=str(output_dir), began=now()
    )


def now() -> str:
    """This moment, UTC, ISO 8601 to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def as_data(plan: Plan) -> dict[str, Any]:
    """The plan as plain data: what `save` writes."""
    return {
        "request": plan.resolution.request,
        "resolution": {**plan.resolution.to_dict(), "findings": [_written(one) for one in plan.resolution.findings]},
        "rehearsal": None if plan.rehearsal is None else dataclasses.asdict(plan.rehearsal),
        "overrides": list(plan.overrides),
        "config": plan.config,
        "output_dir": plan.output_dir,
        "data_prefix": plan.data_prefix,
        "began": plan.began,
    }


def _written(finding: Finding) -> dict[str, Any]:
    """A finding as it is read again: its values are texts, as they are typed on a command line."""
    return {**dataclasses.asdict(finding), "message": finding.message}


def save(plan: Plan) -> Path:
    """Write the plan into its output directory; -> the file."""
    return files.write_json(Path(plan.output_dir, FILE_NAME), as_data(plan), allow_nan=True)


def checksum(path: Path) -> str:
    """SHA-256 of a plan's file: `load` compares it. Raises OSError."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load(path: str | Path, expected: str | None = None) -> Plan:
    """What `save` wrote. Raises LaunchError for keys this version does not know, and for what it cannot do without.

    A field of the request that is not in the file has its default. expected: its `checksum`; another content is refused.
    """
    data = _content(path, expected)
    resolution = data.pop("resolution", {})
    if "request" in data:
        resolution["request"] = data.pop("request")
    plan = _read(path, "plan", {**data, "resolution": resolution}, Plan)
    request = _read(path, "plan.request", plan.resolution.request, Request)
    return dataclasses.replace(
        plan, resolution=dataclasses.replace(plan.resolution, request=dataclasses.asdict(request))
    )


def _content(path: str | Path, expected: str | None) -> dict[str, Any]:
    try:
        content = Path(path).read_bytes()
        if expected is not None and hashlib.sha256(content).hexdigest() != expected:
            raise ValueError("it is not the plan that was composed for this run: something else wrote it since")
        data = json.loads(content)
        if not isinstance(data, dict):
            raise ValueError("it is no JSON object")
    except (OSError, ValueError) as error:
        raise LaunchError(
            "The plan cannot be read",
            where=[str(path)],
            why=f"{getattr(error, 'strerror', None) or error}.",
            fixes=[
                (f"env -u {RANK_PLAN} {commands.train()} OVERRIDES", "composes a plan of its own, and starts ranks")
            ],
            source="hydra_overlap/launch/plan.py",
        ) from None
    return data


def _read(path: str | Path, place: str, data: Any, kind: type[T]) -> T:
    from cattrs import BaseValidationError, transform_error

    try:
        return _converter().structure(data, kind)
    except BaseValidationError as error:
        wrong = "; ".join(
            line.replace(" @ ", ": ") for line in transform_error(error, place, format_exception=_in_words)
        )
    raise LaunchError(
        f"{FILE_NAME} was not written by this version of hydra-overlap",
        where=[str(path)],
        why=f"It does not fit: {wrong}. Read it with the version that wrote it.",
        fixes=[(f"{commands.train()} OVERRIDES", "composes the plan again; `overrides` in the file lists them")],
        source="hydra_overlap/launch/plan.py",
    )


def _in_words(error: BaseException, kind: type | None) -> str:
    """One thing that does not fit, without its place."""
    from cattrs import ForbiddenExtraKeysError

    if isinstance(error, ForbiddenExtraKeysError):
        return f"unknown {', '.join(sorted(error.extra_fields))}"
    return "missing" if isinstance(error, KeyError) else str(error)


@lru_cache(maxsize=1)
def _converter() -> "Converter":
    """Cattrs for plans: unknown keys are errors, and values stay what they are. Imported late: who only plans needs none."""
    from cattrs import Converter
    from cattrs.gen import make_dict_structure_fn

    converter = Converter(forbid_extra_keys=True)
    for kind in SCALARS:
        converter.register_structure_hook(kind, _as_it_is)
    # Findings are written with their whole text, `message`, which is made of the rest.
    read = make_dict_structure_fn(Finding, converter, _cattrs_forbid_extra_keys=False)
    converter.register_structure_hook(Finding, read)
    return converter


def _as_it_is(value: Any, kind: type) -> Any:
    """A number or text; an int may stand for a float, and stays one. Raises TypeError for what is of another kind."""
    if type(value) is kind or (kind is float and type(value) is int):
        return value
    raise TypeError(f"{value!r} is no {kind.__name__}")


def known(value: T | None) -> T:
    """A value that may be null in a request, and not in a plan that is run: `require_model` has refused that."""
    assert value is not None
    return value


def world_size(plan: Plan) -> int:
    """Ranks of the run."""
    return known(plan.request.parallelism.world_size)

"""The environment of an audited launch against its plan: variables that contradict it, undo it, or are missing."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from ..findings import Finding, Fix, Place
from ..resolver.resolution import Resolution
from ..rules.env import CONNECTIONS, ENV002, USERBUFFERS, wants_queues
from ..rules.env_conflicts import OVERLAPS, contrary
from ..schema.targets import in_effect
from .intake import Intake
from .launchers import is_count

SKIP_MULTICAST = "UB_SKIPMC"
STOPS = {
    CONNECTIONS: "Megatron-LM stops where it is not 1 with TP or CP before Blackwell.",
    SKIP_MULTICAST: "Transformer Engine stops where userbuffers find no NVLink multicast and it is not 1.",
}
SOURCES = {
    CONNECTIONS: "Megatron-LM core_v0.16.1 megatron/training/arguments.py:922-953; the same in core_v0.15.3 to core_v0.19.0",
    SKIP_MULTICAST: USERBUFFERS + "158-162",
}
DEFAULT_CONNECTIONS = 8  # of CUDA: more than one queue, for those who need several


def findings(intake: Intake, resolution: Resolution) -> Iterable[Finding]:
    """What of the source's environment a plan cannot be run with as it was meant.

    Contradicting is an error where the program asserts the value, else a warning. A variable that is asserted and not there is
    an error where the whole environment is known, and a warning where a text only does not say it.
    """
    known = {name: value for name, value in intake.env.items() if "$" not in value}
    mine = {name: value for name, value in known.items() if name != CONNECTIONS or not intake.several_queues}
    yield from _contradicting(mine, resolution)  # megatron_checks says what several queues need
    yield from _missing(intake, resolution)
    for one in contrary(resolution.request, resolution.to_dict(), known):
        yield replace(
            ENV002.undoing(one.name, one.value, one.undoes, one.source),
            severity=one.severity, title="A variable undoes what is asked for", fixes=(Fix(f"unset {one.name}", "keeps what was asked for"),),
            where=(Place(f"{one.name}={one.value}", "", intake.of_environment),),
        )  # fmt: skip


def _reason(resolution: Resolution, name: str) -> str:
    return next((f" {row.reason}." for row in resolution.ledger if row.field == f"env.{name}"), "")


def _contradicting(known: dict[str, str], resolution: Resolution) -> Iterator[Finding]:
    for name, needed in resolution.env.items():
        found = known.get(name)
        if found is None or found == needed or _as_good(name, found, needed, resolution):
            continue
        asserted = (name == CONNECTIONS and _asserts_one(resolution)) or name == SKIP_MULTICAST
        more = f" {STOPS[name]}" if asserted else ""
        finding = replace(
            ENV002.contradiction(name, found, needed),
            severity="error" if asserted else "warning",
            title="The environment contradicts the plan",
            where=(Place(f"{name}={found}", "", "set in the source"),),
            why=f"The plan needs {name}={needed}.{_reason(resolution, name)}{more}",
            fixes=(Fix(f"{name}={needed}", ""),),
        )
        yield replace(finding, source=SOURCES[name]) if asserted else finding


def _as_good(name: str, found: str, needed: str, resolution: Resolution) -> bool:
    """Several queues are several queues: CUDA's default stands for any number of them but one, and where nothing overlaps for any."""
    if name != CONNECTIONS or needed != str(DEFAULT_CONNECTIONS):
        return False
    c = in_effect(resolution.request, resolution.to_dict())
    return (is_count(found) and int(found) > 1) or not (wants_queues(c) or any(c[key] for key in OVERLAPS))


def _asserts_one(resolution: Resolution) -> bool:
    return resolution.env.get(CONNECTIONS) == "1"


def _missing(intake: Intake, resolution: Resolution) -> Iterator[Finding]:
    """Variables that the program asserts and nobody sets."""
    if not intake.tells_environment:
        return
    for name in (CONNECTIONS, SKIP_MULTICAST):
        asserts = intake.asserts_connections and not intake.several_queues
        wanted = resolution.env.get(name) == "1" and (name != CONNECTIONS or asserts)
        if not wanted or name in intake.env:
            continue
        here = (
            "the environment of the launch does not have it"
            if intake.exact
            else "the text sets it and does not export it: programs do not get it, unless it was exported before"
            if name in intake.unexported
            else "the text does not set it, so that it hangs on the environment it is called in"
        )
        yield replace(
            ENV002.contradiction(name, "", "1"),
            severity="error" if intake.exact else "warning",
            title="A variable that the run needs is not set",
            where=(
                Place(
                    name,
                    "",
                    f"not {'exported' if name in intake.unexported else 'set'} in the {'environment' if intake.exact else 'source'}",
                ),
            ),
            why=f"The plan needs {name}=1; {here}. {STOPS[name]}",
            fixes=(Fix(f"export {name}=1", ""),),
            source=SOURCES[name],
        )

"""What `hydra-overlap explain` says of a word: a rule, a derivation, a field, a flag, a variable, a group or an option."""

import inspect
import re

from .. import quoting
from ..findings import yaml_value
from ..rules import DERIVATIONS, RULES, Derivation, Rule
from ..schema.descriptions import descriptions
from ..schema.fields import DEFAULTS, FIELDS
from ..schema.nicknames import SHORT, keys_meant, leaves
from ..suggest import folded, likely
from . import option_pages, variable_pages
from .examples import decisions, example
from .page import Block, Page


class UnknownError(LookupError):
    """Nothing bears this name; the message lists near ones."""


def explain(name: str) -> Page:
    """The page of what bears this name; where several things do, a page that lists them. Raises UnknownError.

    `TP002`, `TP101`, `comm_overlap.dp.bucket_size`, `bucket_size`, `tp`, `--tp-comm-overlap`, `CUDA_DEVICE_MAX_CONNECTIONS`,
    `userbuffers`, `comm_overlap=tp4_h100`, `tp4_h100`.
    """
    rules = {rule.__name__: rule for rule in RULES}
    derivations = {derivation.id: derivation for derivation in DERIVATIONS}
    if name.upper() in rules:
        return _rule(rules[name.upper()])
    if name.upper() in derivations:
        return _derivation(derivations[name.upper()])
    if name in DEFAULTS:
        return _field(name)
    page = _flag(name) if name.startswith("-") else variable_pages.of(name)
    if page is not None:
        return page
    places = option_pages.places(name)
    found = places if "=" in name and places else [*_keys(name), *places]  # `optimizer=adam` chooses; `seed=3` sets
    if len(found) == 1:
        return _field(found[0]) if found[0] in DEFAULTS else option_pages.of(found[0])
    if found:
        return _several(name, found)
    hint = _hint(name, [*rules, *derivations])
    raise UnknownError(
        f"There is no rule, field, flag, variable, group or option called {name}.{hint} `hydra-overlap rules` lists the rules."
    )


def _keys(name: str) -> list[str]:
    """The fields that are called so: by their last part, or in short."""
    short = folded(name.lstrip("+~").partition("=")[0])
    return list(keys_meant(short)) if short in leaves() or short in SHORT else []


def _hint(name: str, ids: list[str]) -> str:
    meant = [*likely(name.upper(), ids), *keys_meant(name), *option_pages.meant(name)][:4]
    return f" Did you mean {' or '.join(dict.fromkeys(meant))}?" if meant else ""


def _several(name: str, found: list[str]) -> Page:
    """What the things of one name are, each under the name that means it alone."""
    said = tuple(descriptions()[one] if one in DEFAULTS else option_pages.title(one) for one in found)
    blocks = (Block(label="explain one of them", items=tuple(found), below=said),)
    data = {"names": dict(zip(found, said, strict=True))}
    return Page(kind="names", name=name, title=f"{len(found)} things are called so", blocks=blocks, data=data)


def _flag(flag: str) -> Page | None:
    """The page of a flag of Megatron-LM; None if it decides nothing of ours."""
    from . import flags  # reads the table of all flags

    declared, keys = flags.row(flag), flags.keys_of(flag)
    if declared is None or not keys:
        return None
    name = flag.partition("=")[0]
    value = {"int": "4", "float": "0.5"}.get(declared.get("type", ""), "")
    said = flags.overrides(flag, value) or " ".join(f"{key}=VALUE" for key in keys)
    example = f"{name} {value}".strip() if declared["action"] == "store" else name
    blocks = (
        Block(label="here", items=(said,), below=(f"says what {example} says",)),
        Block(label="decides", items=keys, below=tuple(descriptions()[key] for key in keys)),
    )
    data = {"overrides": said, "fields": list(keys)}
    return Page(kind="flag", name=name, title="a flag of Megatron-LM", blocks=blocks, data=data)


def _rule(rule: type[Rule]) -> Page:
    finding = example(rule)
    why = rule.why or (finding.why if finding else "")
    body = inspect.cleandoc(rule.__doc__ or "").partition("\n")[2].strip()
    blocks = [Block(label="", items=(text,), prose=True) for text in (why, *re.split(r"\n\s*\n", body)) if text]
    if rule.reads:
        blocks.append(Block(label="reads", items=rule.reads))
    fixes = finding.fixes if finding else ()
    command = quoting.command(["hydra-overlap", "check", *rule.refused]) if finding else ""
    if finding is not None:
        blocks.append(Block(label="example", items=(command,)))
        effects = tuple(fix.effect for fix in fixes)
        blocks += [Block(label="fix", items=tuple(fix.override for fix in fixes), below=effects)] if fixes else []
    blocks.append(Block(label="source", items=(rule.source,), prose=True))
    after = f", judged only if {', '.join(rule.requires)} did not refuse" if rule.requires else ""
    data = {
        "title": rule.title(), "severity": rule.severity, "requires": list(rule.requires), "why": why, "details": body,
        "reads": list(rule.reads), "example": command or None, "source": rule.source,
        "fixes": [{"override": fix.override, "effect": fix.effect} for fix in fixes],
    }  # fmt: skip
    severity = f"{rule.severity}{after}"
    return Page(kind="rule", name=rule.__name__, title=rule.title(), severity=severity, blocks=tuple(blocks), data=data)


def _derivation(derivation: Derivation) -> Page:
    blocks = []
    found = list(decisions(derivation))
    if found:
        items = tuple(f"{yaml_value(one.value)}: {one.reason}" for one in found)
        plans = tuple(" ".join(one.plan) or "with nothing set" for one in found)
        blocks.append(Block(label="becomes, for example", items=items, below=plans))
    elif isinstance(derivation.reason, str):  # of no row of the ledger
        blocks.append(Block(label="", items=(derivation.reason,), prose=True))
    blocks.append(Block(label="source", items=(derivation.source,), prose=True))
    examples = [{"value": one.value, "reason": one.reason, "overrides": list(one.plan)} for one in found]
    data = {"decides": derivation.key, "examples": examples, "source": derivation.source}
    title = f"decides {derivation.key} if it is null"
    return Page(kind="derivation", name=derivation.id, title=title, blocks=tuple(blocks), data=data)


def _field(key: str) -> Page:
    field, readers = FIELDS[key], [rule for rule in RULES if key in rule.reads]
    decided = tuple(derivation.id for derivation in DERIVATIONS if derivation.key == key)
    blocks = [
        Block(label="", items=(descriptions()[key],), prose=True),
        Block(label="holds", items=(field.wanted(),), prose=True),
    ]
    blocks += [Block(label="since", items=(f"megatron-core {field.since}",))] if field.since else []
    blocks += [Block(label="null is decided by", items=decided)] if decided else []
    lines = tuple(f"{rule.__name__}  {rule.title()}" for rule in readers)
    blocks += [Block(label="read by", items=lines)] if readers else []
    data = {
        "default": DEFAULTS[key], "description": descriptions()[key], "holds": field.wanted(), "since": field.since or None,
        "decided_by": list(decided), "read_by": [rule.__name__ for rule in readers],
    }  # fmt: skip
    title = f"(default: {yaml_value(DEFAULTS[key])})"
    return Page(kind="field", name=key, title=title, blocks=tuple(blocks), data=data)

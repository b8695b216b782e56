"""Pages about environment variables: what plans set them to, and which values undo what a plan asks for."""

from collections.abc import Iterator

from .. import dotted
from ..findings import yaml_value
from ..resolver.normalise import normalise
from ..rules.env import EnvValue, launch_environment
from ..rules.env_conflicts import NAMES, TABLE
from ..schema.keys import GPU, LAYERNORM_MARGIN, NCCL_UB, P2P_CHUNKSIZE, PP, SM, TP, TP_OVERLAP, WORLD
from .page import Block, Page

HOPPER, AMPERE, BLACKWELL = {GPU: "h100", SM: 90}, {GPU: "a100", SM: 80}, {GPU: "b200", SM: 100}
PLANS: tuple[dict[str, object], ...] = (
    {**HOPPER},
    {**HOPPER, TP: 4, WORLD: 8},
    {**BLACKWELL, TP: 4, WORLD: 8},
    {**HOPPER, LAYERNORM_MARGIN: 20},
    {**HOPPER, PP: 2, WORLD: 2, P2P_CHUNKSIZE: 2097152},
    {**AMPERE, TP: 2, WORLD: 2, TP_OVERLAP: True},
    {**HOPPER, NCCL_UB: True, WORLD: 2},
    {
        **HOPPER, WORLD: 8, "parallelism.expert_model_parallel_size": 8, "model.num_moe_experts": 8,
        "platform.nvlink_domain_size": 8, "model.moe_token_dispatcher_type": "flex",
        "model.moe_flex_dispatcher_backend": "hybridep",
    },
)  # fmt: skip
"""Requests that between them set every variable a plan can set; a test holds them to that."""


def of(name: str) -> Page | None:
    """The page of an environment variable; None if neither a plan nor a rule knows it."""
    word = name.partition("=")[0]
    values, conflicts = list(_values(word)), [row for row in TABLE if word in row.names]
    if not values and not conflicts:
        return None
    blocks = []
    if values:
        items = tuple(f"{one.value}: {one.reason}" for _, one in values)
        plans = tuple(" ".join(f"{key}={yaml_value(value)}" for key, value in plan.items()) for plan, _ in values)
        blocks.append(Block(label="a plan sets it, for example to", items=items, below=plans))
    if conflicts:
        items = tuple(f"{row.severity}: {row.undoes}" for row in conflicts)
        blocks.append(
            Block(
                label="a value of your own can undo what a plan asks for",
                items=items,
                below=tuple(r.source for r in conflicts),
            )
        )
    blocks.append(Block(label="set it for a job", items=(f"++hydra.job.env_set.{word}=VALUE",)))
    data = {
        "values": [{"value": one.value, "reason": one.reason, "rule": one.rule} for _, one in values],
        "undoes": [{"severity": row.severity, "undoes": row.undoes, "source": row.source} for row in conflicts],
    }
    return Page(kind="variable", name=word, title="an environment variable", blocks=tuple(blocks), data=data)


def names() -> tuple[str, ...]:
    """Every variable that has a page."""
    said = (one.name for plan in PLANS for one in launch_environment(_flat(plan)))
    return tuple(dict.fromkeys([*said, *NAMES]))


def _values(name: str) -> Iterator[tuple[dict[str, object], EnvValue]]:
    """One plan for each value and reason that a variable has."""
    seen = set()
    for plan in PLANS:
        for one in launch_environment(_flat(plan)):
            if one.name == name and (one.value, one.reason) not in seen:
                seen.add((one.value, one.reason))
                yield plan, one


def _flat(plan: dict[str, object]) -> dict[str, object]:
    return normalise(dotted.nested(plan), lambda key: "")

"""A plan in one line: its layout, its machines, what it hides under compute, and how much there is to say about it."""

from collections.abc import Iterator

from .. import dotted
from ..findings import SEVERITIES
from ..resolver.resolution import Resolution
from ..rules.layout import data_parallel_size
from ..schema.keys import CP, EP, ETP, PP, SP, TP, VPP
from .tables import facts_of, hidden

SIZES = ((TP, "TP"), (PP, "PP"), (VPP, "VPP"), (CP, "CP"), (EP, "EP"), (ETP, "ETP"))


def in_one_line(resolution: Resolution) -> str:
    """`TP4 SP, 4 H100, TP overlap by userbuffers (10 of 12 GEMMs), 1 note`."""
    counts = {kind: sum(one.severity == kind for one in resolution.findings) for kind in SEVERITIES}
    said = [f"{count} {kind}{'' if count == 1 else 's'}" for kind, count in counts.items() if count]
    parts = [layout(resolution), machines(resolution), *(list(overlaps(resolution)) or ["no overlap"]), *said]
    return ", ".join(part for part in parts if part)


def layout(resolution: Resolution) -> str:
    """`TP4 SP PP2 DP4`: every dimension of more than one rank."""
    flat = dotted.flatten(resolution.request)
    parts = []
    for key, name in SIZES:
        parts += [f"{name}{flat[key]}"] if (flat.get(key) or 1) > 1 and (key != ETP or flat[ETP] != flat[TP]) else []
        parts += ["SP"] if key == TP and flat.get(SP) and flat[TP] > 1 else []
    data = data_parallel_size(flat)
    return " ".join([*parts, *([f"DP{data}"] if data > 1 else [])])


def machines(resolution: Resolution) -> str:
    """`4 H100`, or how many ranks where no GPU is planned for."""
    name, count = resolution.request["platform"]["name"], resolution.request["parallelism"]["world_size"]
    if name in (None, "cpu"):
        return f"{count} rank{'' if count == 1 else 's'}{' on CPU' if name else ''}"
    return f"{count} {name.upper()}"


def overlaps(resolution: Resolution) -> Iterator[str]:
    """What is hidden under compute, dimension by dimension."""
    facts = facts_of(resolution)
    if facts is not None:
        yield f"TP overlap by userbuffers ({hidden(facts)} GEMMs)"
    if resolution.transformer_config.get("overlap_p2p_comm"):
        yield "PP overlap"
    names = {"overlap_grad_reduce": "gradients", "overlap_param_gather": "parameters"}
    found = [word for name, word in names.items() if resolution.ddp_config.get(name)]
    if found:
        yield f"DP overlap ({', '.join(found)})"
    if resolution.transformer_config.get("overlap_moe_expert_parallel_comm"):
        yield "EP overlap"

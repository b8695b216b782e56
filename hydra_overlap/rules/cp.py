"""CP: where context parallelism can run. Its ring overlaps with attention by itself, so there is nothing else to judge."""

from ..findings import Fix
from ..schema.keys import CP, CP_COMM_TYPE, GPU, HEADS, QUERY_GROUPS, TE, TP
from ._base import ARCHITECTURE, Config, Rule
from .layout import neighbours

ALONE = Fix(f"{CP}=1", "no context parallelism")
RING = Fix(f"{CP_COMM_TYPE}=p2p", "a ring, overlapped with attention")


class CpRule(Rule):
    """Base: applies with context parallelism."""

    @classmethod
    def applies(cls, c: Config) -> bool:
        return c[CP] > 1


class CP001(CpRule):
    """Context parallelism without Transformer Engine.

    When it applies: to plans for a GPU. A rehearsal has no context parallelism, and `train.py` says so.
    """

    reads = (CP, GPU, TE)
    why = (
        "megatron-core's own attention asserts CP = 1 while the model is built; only Transformer Engine's attention "
        "has the exchange."
    )
    source = "megatron-core core_v0.16.1 megatron/core/transformer/dot_product_attention.py:57-59"
    records = ("cp-needs-te-attention",)
    refused = (f"{CP}=2", "platform.name=h100")
    fixes = (Fix(f"{TE}=2.11.0", "if the run will have that version"), ALONE)

    @classmethod
    def applies(cls, c: Config) -> bool:
        return c[CP] > 1 and c[GPU] not in (None, "cpu")

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[TE] is not None


class CP002(CpRule):
    """cp_comm_type=a2a cannot give every context-parallel rank whole heads."""

    requires = ("CP001", "PAR006", "PAR007")
    reads = (CP, CP_COMM_TYPE, TP, HEADS, QUERY_GROUPS)
    why = (
        "The all-to-all exchanges parts of the sequence for heads; Transformer Engine asserts that CP divides the "
        "heads of a TP rank."
    )
    source = "Transformer Engine v2.12 transformer_engine/pytorch/attention/dot_product_attention/context_parallel.py:3365-3367"
    refused = (f"{CP}=4", f"{CP_COMM_TYPE}=a2a", f"{HEADS}=6")

    @classmethod
    def applies(cls, c: Config) -> bool:
        return c[CP] > 1 and c[CP_COMM_TYPE] == "a2a" and c[HEADS] is not None

    @classmethod
    def holds(cls, c: Config) -> bool:
        groups = c[HEADS] if c[QUERY_GROUPS] is None else c[QUERY_GROUPS]
        return c[HEADS] // c[TP] % c[CP] == 0 and max(1, groups // c[TP]) % c[CP] == 0

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        heads = (Fix(f"{HEADS}={n} {QUERY_GROUPS}=null", ARCHITECTURE) for n in neighbours(c[HEADS], c[TP] * c[CP]))
        return (RING, ALONE, *heads)


class CP003(CpRule):
    """Hierarchical context parallelism (a2a+p2p) is not supported.

    What upstream does: Megatron-LM and Megatron-Bridge assert hierarchical_context_parallel_sizes, the sizes of the inner
    and the outer group. megatron-core's configuration accepts a2a+p2p without them, and the model fails when it is built.
    """

    reads = (CP, CP_COMM_TYPE)
    why = "It needs process groups of hierarchical_context_parallel_sizes, which a request cannot name."
    source = "Megatron-LM core_v0.16.1 megatron/training/arguments.py:403-408; megatron/core/extensions/transformer_engine.py:1242-1251"
    records = ("cp-a2a-p2p-hierarchical",)
    refused = (f"{CP}=2", f"{CP_COMM_TYPE}=a2a+p2p")
    fixes = (RING, Fix(f"{CP_COMM_TYPE}=a2a", "one all-to-all over all context-parallel ranks"))

    @classmethod
    def holds(cls, c: Config) -> bool:
        return bool(c[CP_COMM_TYPE] != "a2a+p2p")


class CP201(Rule):
    """cp_comm_type is set without context parallelism."""

    severity = "note"
    reads = (CP, CP_COMM_TYPE)
    why = "With CP = 1 nothing is exchanged."
    source = "megatron-core core_v0.16.1 megatron/core/transformer/transformer_layer.py:295"
    refused = (f"{CP_COMM_TYPE}=p2p",)
    fixes = (Fix(f"{CP_COMM_TYPE}=null", "changes nothing else"),)

    @classmethod
    def applies(cls, c: Config) -> bool:
        return c[CP_COMM_TYPE] is not None

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[CP] > 1


RULES: tuple[type[Rule], ...] = (CP001, CP002, CP003, CP201)

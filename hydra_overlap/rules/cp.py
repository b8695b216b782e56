"""CP: context parallelism. Its ring overlaps with attention by itself; these rules say where it runs at all."""

from ..findings import Fix
from ._base import ARCHITECTURE, Config, Rule
from .layout import CP, TP, neighbours

TE = "software.transformer_engine"
KIND = "model.cp_comm_type"
HEADS = "model.num_attention_heads"
GROUPS = "model.num_query_groups"
ALONE = Fix(f"{CP}=1", "no context parallelism")
RING = Fix(f"{KIND}=p2p", "a ring, overlapped with attention")


class CpRule(Rule):
    """Base: applies with context parallelism."""

    @classmethod
    def applies(cls, c: Config) -> bool:
        return c[CP] > 1


class CP001(CpRule):
    """Context parallelism needs Transformer Engine.

    Asked of a plan for a GPU. Without one there is no run, and `train.py` says that a rehearsal has no context parallelism.
    """

    reads = (CP, "platform.name", TE)
    why = "megatron-core's own attention asserts CP = 1 while the model is built; only Transformer Engine's has the exchange."
    source = "megatron-core core_v0.16.1 megatron/core/transformer/dot_product_attention.py:57-59"
    records = ("cp-needs-te-attention",)
    refused = (f"{CP}=2", "platform.name=h100")
    fixes = (Fix(f"{TE}=2.11.0", "if that version is what the run will find"), ALONE)

    @classmethod
    def applies(cls, c: Config) -> bool:
        return c[CP] > 1 and c["platform.name"] not in (None, "cpu")

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[TE] is not None


class CP002(CpRule):
    """With cp_comm_type=a2a, every context-parallel rank gets whole heads."""

    requires = ("CP001", "PAR006", "PAR007")
    reads = (CP, KIND, TP, HEADS, GROUPS)
    why = "The all-to-all trades parts of the sequence for heads; Transformer Engine asserts that CP divides a TP rank's heads."
    source = "Transformer Engine v2.12 transformer_engine/pytorch/attention/dot_product_attention/context_parallel.py:3365-3367"
    refused = (f"{CP}=4", f"{KIND}=a2a", f"{HEADS}=6")

    @classmethod
    def applies(cls, c: Config) -> bool:
        return c[CP] > 1 and c[KIND] == "a2a" and c[HEADS] is not None

    @classmethod
    def holds(cls, c: Config) -> bool:
        groups = c[HEADS] if c[GROUPS] is None else c[GROUPS]
        return c[HEADS] // c[TP] % c[CP] == 0 and max(1, groups // c[TP]) % c[CP] == 0

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        heads = (Fix(f"{HEADS}={n} {GROUPS}=null", ARCHITECTURE) for n in neighbours(c[HEADS], c[TP] * c[CP]))
        return (RING, ALONE, *heads)


class CP003(CpRule):
    """Hierarchical context parallelism (a2a+p2p) is not offered.

    What upstream does: Megatron-LM and Megatron-Bridge assert hierarchical_context_parallel_sizes, the sizes of the inner
    and the outer group; megatron-core's configuration accepts the name without them, and the model fails when it is built.
    A request has no such sizes.
    """

    reads = (CP, KIND)
    why = "It needs process groups of hierarchical_context_parallel_sizes, which no request names."
    source = "Megatron-LM core_v0.16.1 megatron/training/arguments.py:403-408; megatron/core/extensions/transformer_engine.py:1242-1251"
    records = ("cp-a2a-p2p-hierarchical",)
    refused = (f"{CP}=2", f"{KIND}=a2a+p2p")
    fixes = (RING, Fix(f"{KIND}=a2a", "one all-to-all over all context-parallel ranks"))

    @classmethod
    def holds(cls, c: Config) -> bool:
        return bool(c[KIND] != "a2a+p2p")


class CP201(Rule):
    """cp_comm_type has an effect only with context parallelism."""

    severity = "note"
    reads = (CP, KIND)
    why = "With CP = 1 nothing is exchanged."
    source = "megatron-core core_v0.16.1 megatron/core/transformer/transformer_layer.py:295"
    refused = (f"{KIND}=p2p",)
    fixes = (Fix(f"{KIND}=null", "says what happens"),)

    @classmethod
    def applies(cls, c: Config) -> bool:
        return c[KIND] is not None

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[CP] > 1


RULES: tuple[type[Rule], ...] = (CP001, CP002, CP003, CP201)

"""PAR, continued: models that megatron-core refuses to build, or cannot run, whatever their overlap."""

from ..findings import Fix, yaml_value
from ..schema.keys import (
    AUX_LOSS,
    BALANCING,
    BIAS,
    CORE,
    DISPATCHER,
    EP,
    ETP,
    EXPERTS,
    FLEX_BACKEND,
    FP8,
    FP8_RECIPE,
    HEADS,
    MLA,
    PRE_SOFTMAX,
    QUERY_GROUPS,
    RECOMPUTE,
    RECOMPUTE_MODULES,
    SCORES,
    TOPK,
    TP,
    WORLD,
)
from ..schema.versions import at_least
from ._base import ARCHITECTURE, Config, Rule
from .layout import expert_tensor_parallel_size
from .par import MCORE

CONFIG = MCORE + "transformer/transformer_config.py:"


class MoeRule(Rule):
    """Base: applies to a mixture of experts."""

    @classmethod
    def applies(cls, c: Config) -> bool:
        return c[EXPERTS] is not None


class PAR026(MoeRule):
    """A token goes to one expert, and its softmax comes after the choice."""

    reads = (EXPERTS, TOPK, PRE_SOFTMAX, SCORES, BALANCING)
    why = "A softmax over the single chosen expert is always 1, so the router would get no gradient; megatron-core raises."
    source = CONFIG + "1634-1641"
    refused = (f"{EXPERTS}=4", f"{TOPK}=1")
    fixes = (
        Fix(f"{PRE_SOFTMAX}=true", "softmax over all experts, then the choice"),
        Fix(f"{TOPK}=2", ARCHITECTURE),
    )

    @classmethod
    def holds(cls, c: Config) -> bool:
        other = c[SCORES] != "softmax" or c[BALANCING] == "sinkhorn"
        return c[TOPK] != 1 or bool(c[PRE_SOFTMAX]) or other


class PAR027(MoeRule):
    """A token goes to more experts than there are."""

    reads = (EXPERTS, TOPK)
    why = "The router takes the top moe_router_topk of num_moe_experts scores; torch raises in the first forward."
    source = MCORE + "transformer/moe/moe_utils.py:697"
    refused = (f"{EXPERTS}=4", f"{TOPK}=8")

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[TOPK] <= c[EXPERTS]

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        return (Fix(f"{TOPK}={c[EXPERTS]}", ARCHITECTURE), Fix(f"{EXPERTS}={c[TOPK]}", ARCHITECTURE))


class PAR028(MoeRule):
    """Linear layers have biases, and experts are split by tensor parallelism."""

    reads = (EXPERTS, BIAS, ETP, TP)
    why = (
        "megatron-core asserts that experts with biases are whole: expert_tensor_parallel_size = 1, and null means TP."
    )
    source = CONFIG + "1588-1591"
    refused = (f"{EXPERTS}=4", f"{BIAS}=true", f"{TP}=2", "parallelism.sequence_parallel=true")

    @classmethod
    def applies(cls, c: Config) -> bool:
        return c[EXPERTS] is not None and bool(c[BIAS])

    @classmethod
    def holds(cls, c: Config) -> bool:
        return expert_tensor_parallel_size(c) == 1

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        return (Fix(f"{ETP}=1", "whole experts"), Fix(f"{BIAS}=false", ARCHITECTURE))


class PAR029(MoeRule):
    """Sinkhorn balances the router, and a loss is to balance it too."""

    reads = (EXPERTS, BALANCING, AUX_LOSS)
    why = "megatron-core asserts in the first forward that moe_aux_loss_coeff is 0."
    source = MCORE + "transformer/moe/router.py:238"
    refused = (f"{EXPERTS}=4", f"{BALANCING}=sinkhorn", f"{AUX_LOSS}=0.01")
    fixes = (Fix(f"{AUX_LOSS}=0", "Sinkhorn alone"), Fix(f"{BALANCING}=aux_loss", "the loss alone"))

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[BALANCING] != "sinkhorn" or c[AUX_LOSS] == 0


class PAR030(Rule):
    """Norms or expert activations are recomputed under delayed FP8 scaling."""

    requires = ("PAR016",)
    reads = (RECOMPUTE, RECOMPUTE_MODULES, FP8, FP8_RECIPE)
    why = "Delayed scaling would record the recomputed values a second time; megatron-core raises. It is the recipe if none is named."
    source = CONFIG + "1241-1247"
    refused = ("model.recompute_granularity=selective", "model.recompute_modules=[layernorm]", f"{FP8}=hybrid")
    modules = ("moe_act", "layernorm")

    @classmethod
    def applies(cls, c: Config) -> bool:
        return c[RECOMPUTE] == "selective" and c[FP8] is not None and c[FP8_RECIPE] in (None, "delayed")

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not set(cls.modules) & set(c[RECOMPUTE_MODULES] or ())

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        kept = [module for module in c[RECOMPUTE_MODULES] if module not in cls.modules]
        without = f"model.recompute_modules={yaml_value(kept)}"
        if not kept:
            without = "model.recompute_granularity=null model.recompute_modules=null"
        return (
            Fix(f"{FP8_RECIPE}=tensorwise", "one scale per tensor, computed anew"),
            Fix(without, "keeps the recipe"),
        )


class PAR031(MoeRule):
    """The flex token dispatcher has no other rank to send tokens to."""

    requires = ("PAR002", "PAR011")
    reads = (EXPERTS, DISPATCHER, FLEX_BACKEND, EP, ETP, TP, CORE)
    shows = (DISPATCHER, EP, TP)
    why = "It asserts more than one rank in the group of expert tensor and expert parallelism; from megatron-core 0.17 on not with hybridep."
    source = (
        MCORE + "transformer/moe/token_dispatcher.py:1346; core_v0.17.1 the same:1365; core_v0.19.2 the same:1770, 1788"
    )
    refused = (f"{EXPERTS}=4", f"{DISPATCHER}=flex")

    @classmethod
    def applies(cls, c: Config) -> bool:
        return c[EXPERTS] is not None and c[DISPATCHER] == "flex"

    @classmethod
    def holds(cls, c: Config) -> bool:
        free = c[FLEX_BACKEND] == "hybridep" and at_least(c[CORE], "0.17.0")
        return expert_tensor_parallel_size(c) * c[EP] > 1 or free

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        other = Fix(f"{DISPATCHER}=alltoall {FLEX_BACKEND}=null", "runs on one rank, too")
        return (other,) if c[EXPERTS] % 2 else (other, Fix(f"{EP}=2 {WORLD}={c[WORLD] * 2}", "twice the ranks"))


class PAR032(Rule):
    """Multi-latent attention with grouped queries."""

    requires = ("PAR006",)
    reads = (MLA, QUERY_GROUPS, HEADS)
    why = (
        "Every head of multi-latent attention has keys and values of its own; Megatron-LM asserts, and with megatron-core alone the "
        "attention kernel is told of groups that its input does not have."
    )
    source = (
        "megatron-core core_v0.17.1 megatron/training/arguments.py:1593; core_v0.16.1 megatron/core/extensions/"
        "transformer_engine.py:1191"
    )
    refused = (f"{MLA}=true", f"{QUERY_GROUPS}=2", f"{HEADS}=4")
    fixes = (Fix(f"{QUERY_GROUPS}=null", "as many key/value heads as heads"), Fix(f"{MLA}=false", ARCHITECTURE))

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[MLA]) and c[QUERY_GROUPS] is not None and c[HEADS] is not None

    @classmethod
    def holds(cls, c: Config) -> bool:
        return bool(c[QUERY_GROUPS] == c[HEADS])


RULES: tuple[type[Rule], ...] = (PAR026, PAR027, PAR028, PAR029, PAR030, PAR031, PAR032)

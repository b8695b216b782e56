"""CG: CUDA graphs beside overlap, and what megatron-core captures."""

from collections.abc import Iterator

from ..findings import Fix
from ..schema.keys import (
    ATTENTION_DROPOUT,
    CAPACITY_FACTOR,
    CORE,
    CUDA_GRAPH_MODULES,
    CUDA_GRAPH_SCOPE,
    ENABLE_GRAPH,
    EXPERTS,
    EXTERNAL_GRAPH,
    FSDP,
    FSDP_GRAPH_MODE,
    FSDP_START_GATHER,
    GRAPH_IMPL,
    HIDDEN_DROPOUT,
    NAN_CHECK,
    PAD_TO_CAPACITY,
    RECOMPUTE,
    RECOMPUTE_MODULES,
    STEP_GATHER,
)
from ..schema.versions import at_least
from ._base import KEEPS, Config, Rule
from .graphs import GRAPHS, WHOLE, implementation, layerwise, off, only, parts, said

CONFIG = "megatron-core core_v0.16.1 megatron/core/transformer/transformer_config.py:"
ARGUMENTS = "megatron-core core_v0.16.1 megatron/training/arguments.py:"
NO_RECOMPUTE = "model.recompute_granularity=null model.recompute_method=null model.recompute_num_layers=null"


class GraphRule(Rule):
    """Base: of the settings that ask for graphs, a finding shows those that were said."""

    @classmethod
    def shown(cls, c: Config) -> tuple[str, ...]:
        return said(c, super().shown(c))


class CG001(GraphRule):
    """CUDA graphs are asked for twice, in settings that contradict each other."""

    reads = (GRAPH_IMPL, ENABLE_GRAPH, EXTERNAL_GRAPH, CUDA_GRAPH_SCOPE, CUDA_GRAPH_MODULES)
    why = (
        "enable_cuda_graph and external_cuda_graph are older names of cuda_graph_impl=local and transformer_engine, and "
        "cuda_graph_scope one of cuda_graph_modules; megatron-core asserts that each is said once."
    )
    source = CONFIG + "1668-1676; core_v0.19.0 2368-2387"
    refused = (f"{ENABLE_GRAPH}=true", f"{EXTERNAL_GRAPH}=true")

    @classmethod
    def _switches(cls, c: Config) -> list[str]:
        impl = [GRAPH_IMPL] if c[GRAPH_IMPL] not in (None, "none") else []
        return [key for key in (ENABLE_GRAPH, EXTERNAL_GRAPH) if c[key]] + impl

    @classmethod
    def holds(cls, c: Config) -> bool:
        return len(cls._switches(c)) < 2 and not (c[CUDA_GRAPH_SCOPE] and c[CUDA_GRAPH_MODULES])

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        changes = []
        if len(cls._switches(c)) > 1:
            kept = c[GRAPH_IMPL] if c[GRAPH_IMPL] not in (None, "none") else "local"
            changes = [f"{ENABLE_GRAPH}=false", f"{EXTERNAL_GRAPH}=false", f"{GRAPH_IMPL}={kept}"]
        if c[CUDA_GRAPH_SCOPE] and c[CUDA_GRAPH_MODULES]:
            changes += [f"{CUDA_GRAPH_MODULES}=[]"]
        return (Fix(" ".join(changes), "says it once"), Fix(off(c), "no graphs"))


class CG002(GraphRule):
    """Parts of a layer are named for CUDA graphs, but no graphs are captured."""

    severity = "warning"
    requires = ("CG001",)
    reads = (GRAPH_IMPL, ENABLE_GRAPH, EXTERNAL_GRAPH, CUDA_GRAPH_SCOPE, CUDA_GRAPH_MODULES)
    why = "With cuda_graph_impl=none, the default upstream, megatron-core reads no scope: the run has no graph at all."
    source = CONFIG + "1716; core_v0.19.0 2462"
    refused = (f"{GRAPH_IMPL}=none", f"{CUDA_GRAPH_SCOPE}=[attn]")

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[CUDA_GRAPH_SCOPE] or c[CUDA_GRAPH_MODULES])

    @classmethod
    def holds(cls, c: Config) -> bool:
        return implementation(c) != "none"

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        return (Fix(f"{GRAPH_IMPL}=null", "captures them"), Fix(off(c), "no graphs"))


class LayerRule(GraphRule):
    """Base: applies where layers, or parts of them, are captured one by one."""

    @classmethod
    def applies(cls, c: Config) -> bool:
        return layerwise(c)


class CG003(LayerRule):
    """A CUDA graph is to capture a part that the model does not have.

    megatron-core captures a MoE layer as a whole only if every expert gets the same number of tokens: with a capacity factor,
    padded to it. All layers of a model with experts are MoE layers here; a model that mixes them is not planned, nor is one with Mamba
    layers, so the part mamba is not judged.
    """

    requires = ("CG001", "CG004")
    reads = (*GRAPHS, EXPERTS, CAPACITY_FACTOR, PAD_TO_CAPACITY)
    why = "megatron-core asserts, or captures nothing for it."
    source = CONFIG + "1749-1779; core_v0.19.0 2491-2520"
    refused = (f"{CUDA_GRAPH_SCOPE}=[mlp]", f"{EXPERTS}=4")

    @classmethod
    def lacking(cls, c: Config) -> dict[str, str]:
        """Part -> why it is not there."""
        experts = c[EXPERTS] is not None and c[EXPERTS] > 1
        padded = c[CAPACITY_FACTOR] is not None and c[PAD_TO_CAPACITY]
        reasons = {
            "mlp": "every layer is a MoE layer" if experts else "",
            "moe": "the model has no experts"
            if not experts
            else ""
            if padded
            else "tokens are not padded to a capacity",
            "moe_router": "" if experts else "the model has no experts",
            "moe_preprocess": "" if experts else "the model has no experts",
        }
        return {part: reasons[part] for part in parts(c) if reasons.get(part)}

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not cls.lacking(c)

    @classmethod
    def why_for(cls, c: Config) -> str:
        return "; ".join(f"{part}: {why}" for part, why in cls.lacking(c).items()) + f". {cls.why}"

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        kept = tuple(part for part in parts(c) if part not in cls.lacking(c))
        text = only(c, kept, implementation(c)) if kept else off(c)
        return (Fix(text, "captures what there is" if kept else "no graphs"),)


class CG004(GraphRule):
    """CUDA graphs are to capture parts that no graph captures together."""

    requires = ("CG001",)
    reads = GRAPHS
    why = "megatron-core asserts while its configuration is built."
    source = CONFIG + "1737-1750; core_v0.19.0 2457-2490"
    refused = (f"{CUDA_GRAPH_SCOPE}=[full_iteration,attn]",)

    @classmethod
    def applies(cls, c: Config) -> bool:
        return implementation(c) != "none"

    @classmethod
    def problem(cls, c: Config) -> str:
        """What excludes what; empty if nothing does."""
        named = set(parts(c))
        if WHOLE in (*c[CUDA_GRAPH_SCOPE], *c[CUDA_GRAPH_MODULES]) and implementation(c) == "transformer_engine":
            return "Transformer Engine captures no whole iteration"
        if implementation(c) == WHOLE and named:
            return "a graph of the whole iteration has no parts"
        if {"moe", "moe_router"} <= named:
            return "moe captures the router as well"
        if "moe_preprocess" in named and "moe_router" not in named and implementation(c) != "local":
            return "moe_preprocess is captured only with moe_router"
        return ""

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not cls.problem(c)

    @classmethod
    def why_for(cls, c: Config) -> str:
        return f"{cls.problem(c)[0].upper()}{cls.problem(c)[1:]}. {cls.why}"

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        kept = tuple(part for part in parts(c) if part not in ("moe", "moe_preprocess"))
        how = "transformer_engine" if implementation(c) == WHOLE else implementation(c)
        text = only(c, kept, how) if kept else off(c)
        return (Fix(text, "captures the parts that go together" if kept else "no graphs"),)


class CG005(LayerRule):
    """CUDA graphs capture layers that are recomputed as a whole."""

    requires = ("CG001", "CG004")
    reads = (*GRAPHS, RECOMPUTE)
    why = "Full recomputation runs a layer again inside backward, outside its graph; megatron-core asserts."
    source = CONFIG + "1781-1786; core_v0.19.0 2522-2526"
    refused = (f"{CUDA_GRAPH_SCOPE}=[attn]", "model.recompute_granularity=full", "model.recompute_method=uniform",
               "model.recompute_num_layers=1")  # fmt: skip

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[RECOMPUTE] != "full"

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        return (Fix(NO_RECOMPUTE, "keeps the graphs, and all activations"), Fix(off(c), "keeps the recomputation"))


class CG006(GraphRule):
    """A CUDA graph captures dropout that is recomputed, or the router of a recomputed layer."""

    requires = ("CG001", "CG003", "CG004")
    reads = (*GRAPHS, RECOMPUTE, RECOMPUTE_MODULES, ATTENTION_DROPOUT, HIDDEN_DROPOUT)
    why = "A graph replays the same random numbers, and what is recomputed may not cover what is captured; megatron-core asserts."
    source = CONFIG + "1788-1822; core_v0.19.0 2528-2568"
    refused = (f"{CUDA_GRAPH_SCOPE}=[attn]", "model.recompute_granularity=selective",
               f"{ATTENTION_DROPOUT}=0.1")  # fmt: skip

    @classmethod
    def applies(cls, c: Config) -> bool:
        return implementation(c) != "none" and c[RECOMPUTE] == "selective"

    @classmethod
    def clashes(cls, c: Config) -> tuple[str, ...]:
        """Recomputed modules that the graphs exclude."""
        return tuple(dict.fromkeys(cls._clashes(c)))

    @classmethod
    def _clashes(cls, c: Config) -> Iterator[str]:
        modules, named = c[RECOMPUTE_MODULES] or ("core_attn",), parts(c)
        all_of_it = not named
        if "moe" in modules and "moe_router" in named and implementation(c) == "transformer_engine":
            yield "moe"
        if c[ATTENTION_DROPOUT] != 0 and "core_attn" in modules and (all_of_it or "attn" in named):
            yield "core_attn"
        if c[HIDDEN_DROPOUT] != 0:
            yield from (each for each in ("mlp", "moe") if each in modules and (all_of_it or each in named))

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not cls.clashes(c)

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        rest = [module for module in c[RECOMPUTE_MODULES] or ("core_attn",) if module not in cls.clashes(c)]
        fewer = f"{RECOMPUTE_MODULES}=[{','.join(rest)}]" if rest else f"{RECOMPUTE}=null {RECOMPUTE_MODULES}=null"
        return (Fix(fewer, "keeps the graphs"), Fix(off(c), "keeps the recomputation"))


class WholeRule(GraphRule):
    """Base: applies to a CUDA graph of the whole iteration."""

    @classmethod
    def applies(cls, c: Config) -> bool:
        return implementation(c) == WHOLE


class CG007(WholeRule):
    """A CUDA graph of the whole iteration is on with the NaN check."""

    requires = ("CG001", "CG004")
    reads = (*GRAPHS, NAN_CHECK)
    why = "The host waits for each bucket's gradient norm, and capturing ends at such a wait; Megatron-LM asserts."
    source = ARGUMENTS + "725-728; core_v0.19.0 1195-1197"
    refused = (f"{CUDA_GRAPH_SCOPE}=[full_iteration]", f"{NAN_CHECK}=true")

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not c[NAN_CHECK]

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        return (Fix(f"{NAN_CHECK}=false", "keeps the graph"), Fix(off(c), "keeps the check"))


class CG008(WholeRule):
    """A CUDA graph of the whole iteration is on with the parameter gather in the optimizer step."""

    requires = ("CG001", "CG004", "DP005", "DP006")
    reads = (*GRAPHS, STEP_GATHER)
    why = (
        "The optimizer step starts the gather outside the graph, and forward waits for it inside: capturing fails with "
        "cudaErrorStreamCaptureIsolation on every rank."
    )
    source = (
        "https://github.com/NVIDIA-NeMo/Megatron-Bridge/pull/5788; https://github.com/NVIDIA-NeMo/Megatron-Bridge/issues/1688; "
        "megatron-core core_v0.16.1 megatron/core/optimizer/optimizer.py:1247-1250"
    )
    refused = (
        f"{CUDA_GRAPH_SCOPE}=[full_iteration]", f"{STEP_GATHER}=true", "parallelism.pipeline_model_parallel_size=2",
        "parallelism.virtual_pipeline_model_parallel_size=2", "parallelism.world_size=4", "ddp.use_distributed_optimizer=true",
        "optimizer.use_distributed_optimizer=true",
    )  # fmt: skip

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not c[STEP_GATHER]

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        return (
            Fix(f"{STEP_GATHER}=false", "keeps the graph, and the gather under forward"),
            Fix(off(c), KEEPS + ", without graphs"),
        )


class CG009(GraphRule):
    """CUDA graphs under Megatron FSDP without its graph mode, or with a gather outside the graph.

    What upstream does: Megatron-LM sets both fields itself from 0.18 on, and so does a plan that leaves them null;
    Megatron-Bridge leaves them to the recipe. Before 0.18 Megatron FSDP has no graph mode.
    """

    requires = ("CG001", "CG004")
    reads = (*GRAPHS, FSDP, FSDP_GRAPH_MODE, FSDP_START_GATHER, CORE)
    shows = (FSDP, FSDP_GRAPH_MODE, FSDP_START_GATHER, CUDA_GRAPH_SCOPE, CUDA_GRAPH_MODULES, GRAPH_IMPL, CORE)
    why = (
        "Without its graph mode Megatron FSDP frees gradients whose addresses the graph holds. Its first gather is started "
        "by the optimizer step: a graph of the whole iteration waits for it inside, and capturing fails there."
    )
    source = (
        "https://github.com/NVIDIA/Megatron-LM/pull/4663; core_v0.18.2 megatron/training/training.py:1924-1933; "
        "core_v0.18.2 megatron/core/distributed/fsdp/src/megatron_fsdp/megatron_fsdp.py:1247-1257"
    )
    refused = (
        f"{CUDA_GRAPH_SCOPE}=[full_iteration]", f"{FSDP}=true", f"{FSDP_GRAPH_MODE}=false", "ddp.use_distributed_optimizer=true",
        "optimizer.use_distributed_optimizer=true", "parallelism.world_size=2",
    )  # fmt: skip

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[FSDP]) and implementation(c) != "none"

    @classmethod
    def holds(cls, c: Config) -> bool:
        gathers = implementation(c) == WHOLE and c[FSDP_START_GATHER]
        return cls._has_mode(c) and c[FSDP_GRAPH_MODE] is not False and not gathers

    @classmethod
    def _has_mode(cls, c: Config) -> bool:
        return c[CORE] is None or at_least(c[CORE], "0.18.0")

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        mended = f"{FSDP_GRAPH_MODE}=true" + (f" {FSDP_START_GATHER}=false" if implementation(c) == WHOLE else "")
        graphs = "keeps the graphs"
        if not cls._has_mode(c):
            mended, graphs = f"{mended} {CORE}=0.18.0", graphs + ", if the run will have that version"
        return (Fix(mended, graphs), Fix(off(c), "no graphs"))


class CG010(Rule):
    """Megatron FSDP's settings for CUDA graphs are set without Megatron FSDP."""

    reads = (FSDP, FSDP_GRAPH_MODE, FSDP_START_GATHER)
    why = "Nothing else reads them."
    source = "megatron-core core_v0.18.2 megatron/core/distributed/distributed_data_parallel_config.py"
    refused = (f"{FSDP_GRAPH_MODE}=true",)
    fixes = (Fix(f"{FSDP_GRAPH_MODE}=null {FSDP_START_GATHER}=null", "the defaults"),)

    @classmethod
    def applies(cls, c: Config) -> bool:
        return bool(c[FSDP_GRAPH_MODE]) or c[FSDP_START_GATHER] is False

    @classmethod
    def holds(cls, c: Config) -> bool:
        return bool(c[FSDP])


RULES: tuple[type[Rule], ...] = (CG001, CG002, CG003, CG004, CG005, CG006, CG007, CG008, CG009, CG010)

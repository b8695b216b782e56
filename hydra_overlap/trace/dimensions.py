"""Which parallel dimension a collective serves, by megatron-core's process groups.

torch's profiler records the description with which a group was made; megatron-core's names are those of
megatron/core/parallel_state.py (0.16.1 to 0.19.2).
"""

import re

from .kernels import GATHER, P2P, REDUCE, SCATTER

ROWS = (
    (r"TENSOR_MODEL_PARALLEL_GROUP", "TP"),
    (r"EXPERT_MODEL_PARALLEL_GROUP|EXPERT_TENSOR_AND_MODEL_PARALLEL_GROUP", "EP"),
    (r"EXPERT_TENSOR_PARALLEL_GROUP", "expert TP"),
    (r"(?:EXPERT_)?GTP_WEIGHT_REMAT_GROUP", "GTP"),
    (r"PIPELINE_MODEL_PARALLEL_GROUP", "PP"),
    (r"(?:INTRA_PARTIAL_|INTER_PARTIAL_)?(?:EXPERT_)?DATA_PARALLEL_GROUP\w*", "DP"),
    (r"CONTEXT_PARALLEL_GROUP\w*|HIERARCHICAL_\w+|HYBRID_DP_CP_GROUP_\d+", "CP"),
    (r"(?:POSITION_)?EMBEDDING_GROUP", "embeddings"),
    # norms of gradients, amax of FP8, losses of routers, numbers for the log
    (r"INTRA_DISTRIBUTED_OPTIMIZER_INSTANCE_GROUP|MODEL_PARALLEL_GROUP|EXPERT_TENSOR_MODEL_PIPELINE_PARALLEL_GROUP\w*", "other"),
    (r"TENSOR_AND_(?:DATA|CONTEXT)_PARALLEL_GROUP\w*|WEIGHT_GRADIENT_COMM_GROUP|default_pg", "other"),
)  # fmt: skip
_PATTERNS = tuple((re.compile(pattern), dimension) for pattern, dimension in ROWS)
NONE = "unknown group"
DP_PARTS = {REDUCE: "DP reduce", SCATTER: "DP reduce", GATHER: "DP gather"}
ORDER = ("TP", "expert TP", "GTP", "CP", "EP", "PP", "DP reduce", "DP gather", "DP", "embeddings", "other", NONE)


def dimension(description: str, operation: str) -> str:
    """The dimension of a collective in a group; data parallel reductions and gathers apart.

    Of two pipeline stages, one direction of their transfers runs in the world's group (megatron-core's
    p2p_communication.py), so sends and receives in `default_pg` are the pipeline's.
    """
    for pattern, found in _PATTERNS:
        if pattern.fullmatch(description):
            if description == "default_pg" and operation == P2P:
                return "PP"
            return DP_PARTS.get(operation, found) if found == "DP" else found
    return NONE

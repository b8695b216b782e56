"""Whether a rank fits its GPU: what a dry run counts, beside what it cannot count and has to assume.

Three verdicts. *fits*: with every assumption below. *tight*: only if fragmentation and temporaries stay under their margin.
*does not fit*: not even then.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ..schema.nodes import Request
from .holdings import RankFigures
from .sizes import GIB, MIB, size

DRIVER_SHARE = 0.01
"""Of a GPU's memory: what the driver keeps. An H100 of 80 GiB offers 79.1 GiB (torch.cuda.mem_get_info; "total capacity" in
torch's messages)."""
CONTEXT_BYTES = 768 * MIB
"""CUDA context, with the kernels of torch, cuBLAS, NCCL and Transformer Engine that are loaded into it."""
NCCL_BYTES = 256 * MIB
"""Of one NCCL communicator: 4 MiB (NCCL_BUFFSIZE) for each of up to 32 channels, sent and received."""
WORKSPACE_BYTES = 256 * MIB
"""cuBLAS: 32 MiB on Hopper and later, once for the main stream and once for each of Transformer Engine's streams."""
FRAGMENTATION = 0.05
"""Of what is counted: temporaries of a step, and what the allocator holds in pieces too small to use."""

FITS, TIGHT, DOES_NOT_FIT = "fits", "tight", "does not fit"


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The verdict on one rank. Bytes throughout. counted: RankFigures.total_bytes. fixed, margin: assumed. usable: of the GPU."""

    rank: int
    stage: int
    counted: int
    fixed: int
    margin: int
    usable: int | None

    @property
    def needed(self) -> int:
        """All of it, the margin included."""
        return self.counted + self.fixed + self.margin

    @property
    def verdict(self) -> str | None:
        """fits, tight or does not fit; None if the memory of the GPU is not said."""
        if self.usable is None:
            return None
        if self.needed <= self.usable:
            return FITS
        return TIGHT if self.counted + self.fixed <= self.usable else DOES_NOT_FIT

    def __str__(self) -> str:
        who = f"rank {self.rank} (stage {self.stage}) needs the most"
        parts = f"{size(self.counted)} counted and {size(self.fixed + self.margin)} assumed (computed)"
        if self.usable is None:
            return f"{who}, {size(self.needed)}: {parts}; platform.memory_gib is not set"
        share = self.needed / self.usable
        return f"{self.verdict}: {who}, {self.needed / GIB:.1f} of {self.usable / GIB:.1f} GiB usable, {share:.0%}: {parts}"

    def to_dict(self) -> dict[str, object]:
        """Plain data, for dry_run.json."""
        return {**vars(self), "needed": self.needed, "verdict": self.verdict}


def fit(request: Request, figures: Sequence[RankFigures]) -> Fit:
    """The verdict on the fullest of the built ranks."""
    fullest = max(figures, key=lambda one: one.total_bytes)
    memory = request.platform.memory_gib
    return Fit(
        rank=fullest.rank,
        stage=fullest.stage,
        counted=fullest.total_bytes,
        fixed=CONTEXT_BYTES + WORKSPACE_BYTES + NCCL_BYTES * communicators(request, fullest.data_parallel_size),
        margin=int(FRAGMENTATION * fullest.total_bytes),
        usable=None if memory is None else int(memory * GIB * (1 - DRIVER_SHARE)),
    )


def communicators(request: Request, data_parallel_size: int) -> int:
    """Process groups of more than one rank that a rank is in: data, tensor, context, pipeline and expert parallel."""
    ranks = request.parallelism
    sizes = (
        data_parallel_size,
        ranks.tensor_model_parallel_size,
        ranks.context_parallel_size,
        ranks.pipeline_model_parallel_size,
        ranks.expert_model_parallel_size,
    )
    return sum(size > 1 for size in sizes)


def assumptions(one: Fit) -> str:
    """What a verdict assumes, in one line."""
    rest = f"{DRIVER_SHARE:.0%} of the GPU's memory kept by the driver, " if one.usable is not None else ""
    return (
        f"assumed, not measured: {rest}{one.fixed / GIB:.1f} GiB for the CUDA context, workspaces of cuBLAS and NCCL's buffers "
        f"({NCCL_BYTES // MIB} MiB a process group), {FRAGMENTATION:.0%} of what is counted for temporaries and fragmentation; "
        "tight = only without these last"
    )

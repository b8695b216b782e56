"""How long a dry run will take and how much memory, told before it builds anything, and refused where that is too long.

The figures are of one core of a server CPU (AMD Zen 3) and meant to be right within a factor of three: they tell minutes from days.
"""

from dataclasses import dataclass

from ..errors import LaunchError
from ..launch.plan import Plan, known, world_size

LIMIT = "launch.dry_run_minutes"
START_S = 10.0  # importing torch and megatron-core
RANK_S = 0.25  # parallel state, one chunk, its buckets and its optimizer
WORLD_S = 1e-4  # of a rank that is built, for each rank of the world: its groups are looked up among all
LAYER_S = 0.03  # building a layer
STEP_LAYER_S = 0.15  # the forward and backward of a layer, twice
WORK_S = 1.5e-3  # one forward or backward of a chunk that repeats an earlier one, and its place in the timeline
WORK_BYTES = 2000.0
WORLD_BYTES = 2000.0
BASE_BYTES = 400.0 * 2**20


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a dry run has to do. layers: of the ranks that are built. works: forwards and backwards of all stages in a step."""

    world: int
    ranks: int
    layers: int
    stages: int
    stage_layers: int
    works: int

    @property
    def seconds(self) -> float:
        """Time on one core."""
        building = self.ranks * (RANK_S + self.world * WORLD_S) + self.layers * LAYER_S
        return START_S + building + self.stage_layers * STEP_LAYER_S + self.works * WORK_S

    @property
    def gib(self) -> float:
        """Memory of this process, GiB."""
        return (BASE_BYTES + self.works * WORK_BYTES + self.world * WORLD_BYTES) / 2**30

    def __str__(self) -> str:
        return f"about {_duration(self.seconds)} and {self.gib:.1f} GiB"


def cost(plan: Plan, ranks: int) -> Cost:
    """The cost of building so many ranks of a plan, and of recording one step of a rank of each of its stages."""
    request, world = plan.request, world_size(plan)
    sizes = request.parallelism
    stages, chunks = sizes.pipeline_model_parallel_size, sizes.virtual_pipeline_model_parallel_size or 1
    layers = (request.model.num_layers or 1) + (request.model.mtp_num_layers or 0)
    replicas = max(1, world // (sizes.tensor_model_parallel_size * stages * sizes.context_parallel_size))
    batch = request.training.global_batch_size or request.training.micro_batch_size * replicas
    microbatches = max(1, batch // (request.training.micro_batch_size * replicas))
    return Cost(
        world=world,
        ranks=ranks,
        layers=-(-layers * ranks // stages),
        stages=stages,
        stage_layers=layers,
        works=2 * microbatches * chunks * stages,
    )


def require_affordable(plan: Plan, ranks: int) -> Cost:
    """The cost of a dry run. Raises LaunchError where it takes longer than launch.dry_run_minutes, or more memory than there is."""
    found, limit = cost(plan, ranks), plan.request.launch.dry_run_minutes
    available = _memory_gib()
    if found.seconds <= 60 * limit and (available is None or found.gib <= available):
        return found
    why = (
        f"It would build {found.ranks:,} ranks with {found.layers:,} layers, take a step of {found.stages:,} pipeline stages with {found.stage_layers:,} "
        f"layers, and lay out {found.works:,} forwards and backwards of microbatches among {found.world:,} ranks: {found}."
    )
    where = [
        f"{LIMIT}={limit:g}",
        f"parallelism.pipeline_model_parallel_size={found.stages}",
        f"model.num_layers={known(plan.request.model.num_layers)}",
        f"training.global_batch_size={plan.request.training.global_batch_size}",
    ]
    if available is not None and found.gib > available:
        raise LaunchError(
            f"This dry run would take about {found.gib:.0f} GiB of memory, and {available:.0f} GiB are free", where=where, why=why,
            fixes=[(f"training.global_batch_size={_few(plan)}", "few microbatches; memory of ranks is the same")],
        )  # fmt: skip
    raise LaunchError(
        f"This dry run would take about {_duration(found.seconds)}", where=where, why=why,
        fixes=[(f"{LIMIT}={-(-found.seconds // 60) + 1:.0f}", "starts it all the same; Ctrl-C ends it")],
    )  # fmt: skip


def _few(plan: Plan) -> int:
    """A batch of two microbatches for each stage."""
    request = plan.request
    sizes = request.parallelism
    stages = sizes.pipeline_model_parallel_size
    replicas = max(1, world_size(plan) // (sizes.tensor_model_parallel_size * stages * sizes.context_parallel_size))
    return 2 * stages * request.training.micro_batch_size * replicas


def _memory_gib() -> float | None:
    """Memory that is free on this machine, GiB; None where it does not say."""
    try:
        with open("/proc/meminfo") as lines:
            free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None
    return free / 2**20


def _duration(seconds: float) -> str:
    """`40 s`, `12 minutes`, `5 hours`, `3 days`, `80 years`."""
    for size, name in ((31_557_600, "years"), (86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {name}"
    return f"{seconds:.0f} s"

"""The job that launch=slurm submits, laid out: nodes, tasks and GPUs, where the plan leaves them open."""

from ..rules import trn
from ..schema.fields import complete
from ..schema.keys import SLURM_GPUS, SLURM_NODES, SLURM_TASKS
from .plan import Plan


def laid_out(plan: Plan) -> Plan:
    """A copy of the plan with launch.slurm's nodes, tasks and GPUs filled in; rules (TRN013 to TRN015) know that they fit."""
    flat = complete(plan.resolution.request)
    nodes, tasks = trn.slurm_tasks(flat)
    return plan.with_values({SLURM_NODES: nodes, SLURM_TASKS: tasks, SLURM_GPUS: trn.slurm_gpus(flat)})

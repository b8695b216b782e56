"""Starting ranks: on this machine, or joining those that torchrun or srun started."""

RANK_PLAN = "HYDRA_OVERLAP_RANK_PLAN"
"""The variable that only ranks which train.py started have: where their plan lies."""
RANK_PLAN_SUM = "HYDRA_OVERLAP_RANK_PLAN_SHA256"
"""Beside it: the checksum of the plan that the process which composed has written."""
RANK_PARENT = "HYDRA_OVERLAP_RANK_PARENT"
"""Beside it: the id of the process that started the rank. It may be gone before the rank can look."""

"""Starting ranks: on this machine, or joining those that torchrun or srun started."""

RANK_PLAN = "HYDRA_OVERLAP_RANK_PLAN"
"""The variable that only ranks which train.py started have: where their plan lies."""

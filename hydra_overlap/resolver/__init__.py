"""A request becomes a Resolution, or is refused: the one place that decides. Pure: no torch, no Hydra, no machine."""

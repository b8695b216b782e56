"""`python -m hydra_overlap.train OVERRIDES`, for launchers that start a module; and what every rank of a run starts with.

Started by its path as well: nothing in this folder has the name of another module.
"""

from hydra_overlap.train import command

if __name__ == "__main__":
    command()

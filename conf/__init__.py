"""The option files, shipped in the wheel as the package `hydra_overlap.conf`."""

"""Hydra plugins of hydra-overlap. `hydra_plugins` itself has no __init__.py: other projects share the namespace."""

"""Puts the option files of hydra-overlap on every Hydra app's search path, and registers their schemas.

Hydra imports this module at every start of every app on the machine: nothing heavy, and nothing that can fail.
"""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.plugins.search_path_plugin import SearchPathPlugin

PROVIDER = "hydra-overlap"
PATH = "pkg://hydra_overlap.conf"
SCHEMA_GROUP = "_overlap/schema"


class HydraOverlapSearchPathPlugin(SearchPathPlugin):
    """Discovered by Hydra in the `hydra_plugins` namespace (1.3) or by entry point (1.4)."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append our option files after the app's own, so that the app wins."""
        from hydra_overlap import compose, schema

        nodes = {
            "parallelism": schema.Parallelism,
            "comm_overlap": schema.CommOverlap,
            "userbuffers": schema.Userbuffers,
            "model": schema.Model,
            "precision": schema.Precision,
            "ddp": schema.Ddp,
            "optimizer": schema.Optimizer,
            "training": schema.Training,
            "data": schema.Data,
            "platform": schema.Platform,
            "software": schema.Software,
            "launch": schema.Launch,
            "overlap": schema.Overlap,
        }
        for name, node in nodes.items():
            ConfigStore.instance().store(group=SCHEMA_GROUP, name=name, node=node, provider=PROVIDER)
        compose.register()
        search_path.append(provider=PROVIDER, path=PATH)

"""Puts the option files of hydra-overlap on every Hydra app's search path, and registers schemas and resolvers.

Hydra imports this module at every start of every app on the machine: nothing heavy, and nothing that can fail.
"""

import inspect
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

PROVIDER = "hydra-overlap"
SCHEMA_GROUP = "_overlap/schema"


class HydraOverlapSearchPathPlugin(SearchPathPlugin):
    """Discovered by Hydra in the `hydra_plugins` namespace (1.3) or by entry point (1.4)."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append our option files after the app's own, so that the app wins."""
        from hydra_overlap.compose import option_source

        _store_schemas()
        Plugins.instance().register(option_source.OptionFileSource)
        path = option_source.path()
        for element in search_path.get_path():
            if option_source.ours(element.path):  # as the app's own folder
                element.path = path
        search_path.append(provider=PROVIDER, path=path)


def _check(*, _root_: DictConfig) -> list[str]:
    from hydra_overlap.compose import enforce

    return enforce.check(_root_)


def _guard(*, _root_: DictConfig) -> str:
    from hydra_overlap.compose import enforce

    return enforce.guard(_root_)


def _help(*, _root_: DictConfig) -> str:
    from hydra_overlap.reference import hydra_help as page

    return page.text(_root_.hydra.runtime.choices)


def _register_resolvers() -> None:
    """`${overlap.check:}`, `${overlap.guard:}` and `${overlap.help:}`. Never cached: a sweep hands its cache to each of its jobs."""
    register: Any = OmegaConf.register_new_resolver
    # omegaconf 2.4 renames it and warns; in 2.3 a function of that name exists and is another.
    if "replace" in inspect.signature(OmegaConf.register_resolver).parameters:
        register = OmegaConf.register_resolver
    register("overlap.check", _check, replace=True)
    register("overlap.guard", _guard, replace=True)
    register("overlap.help", _help, replace=True)


def _store_schemas() -> None:
    """Once: Hydra asks for search paths at every start of a process that composes again and again."""
    if SCHEMA_GROUP.partition("/")[0] in ConfigStore.instance().repo:
        return
    from hydra_overlap.compose import typed_nodes

    for name, kinds in typed_nodes.SCHEMAS.items():
        typed_nodes.store(SCHEMA_GROUP, name, kinds, PROVIDER)


# At import, not in the plugin's method: a launcher's worker process unpickles the plugin and composes without calling it.
_register_resolvers()

"""Puts the option files of hydra-overlap on every Hydra app's search path, and registers schemas and resolvers.

Hydra imports this module at every start of every app on the machine: nothing heavy, and nothing that can fail.
"""

import inspect
import sys
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

PROVIDER = "hydra-overlap"
ENFORCE = "hydra_overlap.compose.enforce"


class HydraOverlapSearchPathPlugin(SearchPathPlugin):
    """Discovered by Hydra in the `hydra_plugins` namespace (1.3) or by entry point (1.4)."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append our option files after the app's own, so that the app wins; to another app only what it can want."""
        from hydra_overlap.compose import option_source

        _latch()
        for source in (option_source.OptionFileSource, option_source.HostFileSource):
            Plugins.instance().register(source)
        own = [element for element in search_path.get_path() if option_source.ours(element.path)]
        for element in own:  # an app built on our option files has all of them, under their own names
            element.path = option_source.path()
        scheme = option_source.SCHEME if own else option_source.HOST_SCHEME
        search_path.append(provider=PROVIDER, path=option_source.path(scheme))


def _check(*, _root_: DictConfig) -> list[str]:
    from hydra_overlap.compose import option_source

    if _merging(_root_):
        return []
    if ENFORCE not in sys.modules and option_source.absent(_root_):
        _root_.hydra.job._get_node("env_copy")._set_value([])  # an app that uses nothing of ours loads nothing for it
        return []
    from hydra_overlap.compose import enforce

    return enforce.check(_root_)


def _merging(root: DictConfig) -> bool:
    """Whether Hydra is still putting files together; OmegaConf asks for the value of what a file is merged into."""
    return "hydra" not in root or not root.hydra.runtime.choices


def _guard(*, _root_: DictConfig) -> str:
    from hydra_overlap.compose import enforce

    return enforce.guard(_root_)


def _help(*, _root_: DictConfig) -> str:
    if _merging(_root_):
        return ""
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


def _latch() -> None:
    """Let every composition end in `overlap.check`: an option of ours need not be in a bundle to be judged.

    Hydra reads hydra.job.env_copy at the end of each composition, of which this is the default. Where nothing is ours, the
    check leaves the empty list that it was.
    """
    settings: Any = ConfigStore.instance().repo["hydra"]["config.yaml"].node
    settings.job.env_copy = "${overlap.check:}"


# At import, not in the plugin's method: a launcher's worker process unpickles the plugin and composes without calling it.
_register_resolvers()

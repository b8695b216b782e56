"""Pages about config groups and their options: bundles, presets, experiments, layouts."""

from functools import lru_cache
from typing import Any

from .. import dotted, option_files
from ..findings import yaml_value
from ..schema.fields import FIELDS, NODES, TREE
from ..suggest import folded, likely
from .page import Block, Page

GROUPS = (
    *(name for name in NODES if name != "gating"),
    *(f"comm_overlap/{d}" for d in TREE["comm_overlap"]),
    "experiment",
)
SHORT = {
    "preset": "userbuffers",
    "presets": "userbuffers",
    "ub": "userbuffers",
    "bundle": "comm_overlap",
    "experiments": "experiment",
}
"""What else groups are called."""
OF_A_PRESET = ("userbuffers.name", "userbuffers.source")  # said by the page's own headline and source


@lru_cache(maxsize=1)
def _options() -> dict[str, tuple[str, ...]]:
    """Folded name of an option -> `group=option` of each group that has it."""
    found: dict[str, tuple[str, ...]] = {}
    for group in GROUPS:
        for option in option_files.options(group):
            found[folded(option)] = (*found.get(folded(option), ()), f"{group}={option}")
    return found


def choices(word: str) -> tuple[str, ...]:
    """`group=option` for every group that has an option of this name."""
    return _options().get(folded(word), ())


def places(name: str) -> list[str]:
    """`group` or `group=option` of everything that is called so."""
    group, sign, option = _bare(name).partition("=")
    if sign:
        known = {folded(one): one for one in option_files.options(group)} if group in GROUPS else {}
        return [f"{group}={known[folded(option)]}"] if folded(option) in known else []
    word = folded(group)
    groups = [one for one in GROUPS if word in (one, one.rpartition("/")[2]) or SHORT.get(word) == one]
    return [*groups, *choices(word)]


def _bare(name: str) -> str:
    """`+overlap/parallelism=tp4`, as an app of somebody else's says it -> parallelism=tp4."""
    return name.lstrip("+").removeprefix("overlap/")


def meant(name: str) -> tuple[str, ...]:
    """Options and groups that `name`, which is none of them, may mean."""
    group, sign, option = _bare(name).partition("=")
    if sign and group in GROUPS:
        return tuple(f"{group}={one}" for one in likely(option, option_files.options(group)))
    found = likely(name, _options())
    return (*likely(name, GROUPS), *(choice for one in found for choice in _options()[one]))


def title(place: str) -> str:
    """What a group or an option is, in a sentence."""
    group, _, option = place.partition("=")
    if option:
        return option_files.description(group, option)
    return f"a config group of {len(option_files.options(group))} options"


def of(place: str) -> Page:
    """The page of a group (`userbuffers`) or of an option (`comm_overlap=tp4_h100`)."""
    group, _, option = place.partition("=")
    return _option(group, option) if option else _group(group)


def _group(group: str) -> Page:
    names = option_files.options(group)
    said = tuple(option_files.description(group, name) for name in names)
    use = Block(label="choose one", items=(f"hydra-overlap check {group}={names[0]}",))
    blocks = (use, Block(label="options", items=names, below=said))
    data = {"options": dict(zip(names, said, strict=True))}
    return Page(kind="group", name=group, title=title(group), blocks=blocks, data=data)


def _option(group: str, name: str) -> Page:
    text = option_files.text(group, name)
    prefix = option_files.package(group, name)
    source = next((line.removeprefix("# source: ") for line in text.splitlines() if line.startswith("# source: ")), "")
    chosen = [f"{chosen}={option}" for chosen, option in option_files.chosen(group, name)]
    whole = [f"userbuffers.layers.{gemm}" for gemm in option_files.option(group, name).get("layers") or ()]
    values = dotted.flatten(option_files.option(group, name), prefix, whole=whole)
    values = {key: value for key, value in values.items() if key in FIELDS or key in whole}
    sets = tuple(f"{key}={yaml_value(value)}" for key, value in values.items() if key not in OF_A_PRESET)
    blocks = [Block(label="use", items=(f"hydra-overlap check {group}={name}",))]
    blocks += [Block(label="chooses", items=tuple(chosen))] if chosen else []
    blocks += [Block(label="sets", items=sets)] if sets else []
    blocks += _refused(name) if group == "userbuffers" and "layers" in option_files.option(group, name) else []
    blocks += [Block(label="source", items=(source,), prose=True)] if source else []
    data: dict[str, Any] = {
        "description": title(f"{group}={name}"),
        "chooses": chosen,
        "sets": values,
        "source": source or None,
    }
    return Page(kind="option", name=f"{group}={name}", title=data["description"], blocks=tuple(blocks), data=data)


def _refused(name: str) -> list[Block]:
    """Rules that refuse a preset on the very shape it was tuned for, and where its GEMMs are shown."""
    from ..presets import catalogue  # reads every preset

    rules = catalogue.preset(name).refusals() if name not in catalogue.NO_PRESETS else ()
    more = (
        [Block(label="its GEMMs, one by one", items=(f"hydra-overlap presets show {name}",))]
        if name not in catalogue.NO_PRESETS
        else []
    )
    return [*([Block(label="refused, even on the shape it was tuned for, by", items=rules)] if rules else []), *more]

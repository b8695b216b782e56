"""`hydra-overlap train --help`: how to call it, and every group and option with its one line, the chosen ones marked."""

from collections.abc import Iterator, Mapping

from .. import commands, option_files

GROUPS = (
    "comm_overlap", "comm_overlap/tp", "comm_overlap/pp", "comm_overlap/dp", "comm_overlap/ep", "experiment", "parallelism",
    "model", "precision", "training", "data", "checkpoint", "ddp", "optimizer", "platform", "software", "launch",
)  # fmt: skip
CATALOGUE = "userbuffers"  # too many to list: `hydra-overlap presets` does


def text(chosen: Mapping[str, object]) -> str:
    """Usage and the list, with every `$` doubled: Hydra puts it through string.Template. chosen: hydra.runtime.choices."""
    marked = {str(choice).partition("@")[0]: str(option) for choice, option in chosen.items()}
    program = commands.train()
    lines = [
        f"{program} trains with megatron-core. Every overlap asked for takes effect, or the run is refused.",
        "",
        f"  {program} GROUP=OPTION ... KEY=VALUE ...",
        "      --cfg job --resolve     prints the plan; starts nothing",
        "      launch.dry_run=true     reports what ranks would hold, for any world size",
        "      -m KEY=A,B,C            one run after the other, compared",
        "",
        "Groups and their options (* = chosen now):",
    ]
    for group in GROUPS:
        lines += ["", group, *_options(group, marked.get(group))]
    count = len(option_files.options(CATALOGUE))
    lines += ["", f"{CATALOGUE}", f"    {count} options; hydra-overlap presets lists and compares them"]
    lines += [f"  * {marked[CATALOGUE]}"] if CATALOGUE in marked else []
    return "\n".join(lines).replace("$", "$$")


def _options(group: str, chosen: str | None) -> Iterator[str]:
    names = option_files.options(group)
    width = max(len(name) for name in names)
    for name in names:
        yield f"  {'*' if name == chosen else ' '} {name:<{width}}  {description(group, name)}"


def description(group: str, name: str) -> str:
    """The first comment of an option file, `# @package` and the command that runs an experiment aside."""
    lines = option_files.text(group, name).splitlines()
    first = next(line for line in lines if not line.startswith("# @package")).removeprefix("# ")
    return first.removeprefix(f"python train.py {group}={name}: ")

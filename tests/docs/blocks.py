"""Blocks of README.md and docs/ that are made from the code (`make docs` writes them, a test compares), and whole pages of the site."""

from pathlib import Path

from hydra_overlap.reference.hydra_help import description

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
SCRIPTS = Path(__file__).parent / "scripts"
HIDDEN = ("_overlap", "experiment", "hydra")


def options(group: str) -> str:
    """A table of the options of one group."""
    rows = [f"| `{file.stem}` | {description(group, file.stem)} |" for file in sorted((CONF / group).glob("*.yaml"))]
    return "\n".join([f"| `{group}=` | |", "| --- | --- |", *rows])


def groups() -> str:
    """A table of all groups and the names of their options."""
    rows = []
    for folder in sorted(path for path in CONF.rglob("*") if path.is_dir()):
        group = str(folder.relative_to(CONF))
        names = sorted(file.stem for file in folder.glob("*.yaml"))
        if not names or group.startswith(HIDDEN) or group in ("comm_overlap", "__pycache__"):
            continue
        shown = (
            ", ".join(f"`{name}`" for name in names) if len(names) < 16 else f"{len(names)} presets, `conf/{group}/`"
        )
        rows.append(f"| `{group}` | {shown} |")
    return "\n".join(["| group | options |", "| --- | --- |", *rows])


def refusal(*overrides: str) -> str:
    """A refused command and what it prints."""
    text = _told(["check", *overrides], exit_code=1)
    return "\n".join(["```console", f"$ hydra-overlap check {' '.join(overrides)}", text, "```"])


def audited(script: str, *overrides: str) -> str:
    """The audit of a script of tests/docs/scripts: its command and what it prints."""
    text = _told(["audit", str(SCRIPTS / script), *overrides], exit_code=None)
    return "\n".join(["```console", f"$ hydra-overlap audit {' '.join([script, *overrides])}", text, "```"])


def _told(arguments: list[str], *, exit_code: int | None) -> str:
    """What `hydra-overlap ARGUMENTS` prints into a file, in this process; paragraphs without the spaces at their ends."""
    from click.testing import CliRunner

    from hydra_overlap.cli import main

    done = CliRunner(env={"COLUMNS": "100"}).invoke(main, arguments)  # of a page
    assert exit_code in (None, done.exit_code) and "Traceback" not in done.output, done.output
    return "\n".join(line.rstrip() for line in done.output.strip().splitlines())


def rules_by_family() -> str:
    """Rules and derivations counted by family and severity."""
    from collections import Counter

    from hydra_overlap.rules import DERIVATIONS, RULES

    counts = Counter((family(rule.__name__), rule.severity) for rule in RULES)
    derived = Counter(family(derivation.id) for derivation in DERIVATIONS)
    names = list(dict.fromkeys(family(rule.__name__) for rule in RULES))
    rows = [[n, *(counts[n, severity] for severity in ("error", "warning", "note")), derived[n]] for n in names]
    total = ["all", *(sum(row[column] for row in rows) for column in range(1, 5))]
    body = ["| " + " | ".join(str(cell) for cell in row) + " |" for row in [*rows, total]]
    return "\n".join(["| family | errors | warnings | notes | derivations |", "| --- | --- | --- | --- | --- |", *body])


def catalogue_by_area() -> str:
    """What became of the records of the catalogue, area by area."""
    from collections import Counter

    from tests.rules.test_catalogue import CATALOGUE, answer

    kinds = ("rule", "derivation", "environment", "left out")
    counts = Counter((record["area"], answer(record["id"])) for record in CATALOGUE)
    areas = list(dict.fromkeys(record["area"] for record in CATALOGUE))
    rows = [
        [area, *(counts[area, kind] for kind in kinds), sum(counts[area, kind] for kind in kinds)] for area in areas
    ]
    total = ["all", *(sum(row[column] for row in rows) for column in range(1, 6))]
    body = ["| " + " | ".join(str(cell) for cell in row) + " |" for row in [*rows, total]]
    head = "| area | rule | derivation | launch environment | left out, with a reason | records |"
    return "\n".join([head, "| --- | --- | --- | --- | --- | --- |", *body])


def family(name: str) -> str:
    """`TP002` -> `TP`."""
    return name.rstrip("0123456789")


def groups_page() -> str:
    """The page of the site with every group and option, one table a group."""
    lines = [
        "# Groups and options",
        "",
        "`GROUP=OPTION` on the command line chooses an option; `hydra-overlap train --help` marks the chosen ones. A bundle, an option of",
        "`comm_overlap`, chooses options for all dimensions at once. An experiment chooses everything.",
        "",
    ]
    for folder in sorted(path for path in CONF.rglob("*") if path.is_dir()):
        group = str(folder.relative_to(CONF))
        if any(folder.glob("*.yaml")) and not group.startswith(("_overlap", "hydra")):
            lines += [f"## {group}", "", options(group), ""]
    return "\n".join(lines)


def fields_page() -> str:
    """The page of the site with every field: meaning, what it may hold, default, and the rules that read it."""
    from hydra_overlap.findings import yaml_value
    from hydra_overlap.rules import RULES
    from hydra_overlap.schema.descriptions import descriptions
    from hydra_overlap.schema.fields import FIELDS

    lines = [
        "# Fields",
        "",
        "Every key that the rules read, under megatron-core's own names. `hydra-overlap explain KEY` prints the same. Of an overlap field,",
        "`null` means that it is decided from the rest of the plan; any other value takes effect or is refused.",
    ]
    before = None
    nodes = list(dict.fromkeys(key.rpartition(".")[0] for key in descriptions()))
    for key, text in sorted(descriptions().items(), key=lambda item: nodes.index(item[0].rpartition(".")[0])):
        node, _, name = key.rpartition(".")
        if node != before:
            lines += ["", f"## {node or 'Top level'}"]
            before = node
        field = FIELDS[key]
        readers = [rule.__name__ for rule in RULES if key in rule.reads]
        linked = ", ".join(f"[{rule}](../rules/{family(rule).lower()}.md)" for rule in readers)
        since = f" Since megatron-core {field.since}." if field.since else ""
        lines += ["", f"### {name}", "", f"{' '.join(text.split())}{since}", ""]
        lines += [f"`{key}` holds {field.wanted()}; default `{yaml_value(field.default)}`."]
        lines += ["", f"Read by {linked}."] if linked else []
    return "\n".join(lines)


def commands_page() -> str:
    """The page of the site with every command of `hydra-overlap`: what its --help prints."""
    import click

    from hydra_overlap.cli import main

    lines = [
        "# Commands",
        "",
        "What `hydra-overlap COMMAND --help` prints. Exit codes: 0 success, 1 refused or failed, 2 usage error; of `train` also 75 stopped on",
        "request and 130 interrupted. Completion: `eval \"$(_HYDRA_OVERLAP_COMPLETE=bash_source hydra-overlap)\"` (or `zsh_source`,",
        "`fish_source`); for train.py `eval \"$(python train.py -sc install=bash)\"`.",
        "",
    ]  # fmt: skip

    def told(command: click.Command, name: str, parent: click.Context | None) -> None:
        context = click.Context(command, info_name=name, parent=parent, terminal_width=100, max_content_width=100)
        if parent is not None:
            lines.extend([f"## {context.command_path.split(' ', 1)[1]}", "", "```text", command.get_help(context).strip(), "```", ""])  # fmt: skip
        for child, one in getattr(command, "commands", {}).items():
            told(one, child, context)

    told(main, "hydra-overlap", None)
    return "\n".join(lines)

"""The `hydra-overlap` command: a thin layer over the functions of the package. Never imports torch.

Exit codes: 0 fine, 1 refused (or, for doctor, something is wrong), 2 usage.
"""

import functools
import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from . import _version
from .reference import completion

if TYPE_CHECKING:
    from .compose.check import Primary
    from .presets.catalogue import Preset


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(_version.__version__, prog_name="hydra-overlap")
def main() -> None:
    """Communication overlap for Megatron: judge and explain plans, export and audit them, examine this machine."""


def of_an_app(command: Callable[..., None]) -> Callable[..., None]:
    """Hydra's three options that say which primary config OVERRIDES are for; the command gets them as `primary`."""

    @click.option(
        "-C", "--config-dir", type=click.Path(exists=True, file_okay=False), help="Your app's configuration directory."
    )
    @click.option("--config-module", help="The package that holds your app's configuration, in place of a directory.")
    @click.option("--config-name", help="Your app's primary config. Without it, the directory adds options to our own.")
    @functools.wraps(command)
    def with_primary(
        *arguments: Any, config_dir: str | None, config_module: str | None, config_name: str | None, **options: Any
    ) -> None:
        return command(*arguments, primary=_primary(config_dir, config_module, config_name), **options)

    return with_primary


def _primary(folder: str | None, module: str | None, name: str | None) -> "Primary":
    from pathlib import Path

    from .compose.check import Primary

    if folder is not None and module is not None:
        raise click.UsageError(
            "--config-dir and --config-module exclude each other: say where the primary config lies."
        )
    if module is not None and name is None:
        raise click.UsageError("--config-module needs --config-name, the primary config in it.")
    if name is not None and folder is None and module is None:
        raise click.UsageError(
            f"Where is {name}? Name its directory with --config-dir, or its package with --config-module."
        )
    plain = None if name is None else name.removesuffix(".yaml")
    return Primary(folder=None if folder is None else Path(folder), module=module, name=plain)


@main.command(short_help="Explain a rule, a derivation or a field.")
@click.argument("name", shell_complete=completion.pages)
def explain(name: str) -> None:
    """Print the page of a rule (TP002), a derivation (TP101) or a field (comm_overlap.dp.bucket_size)."""
    from .reference.explain import UnknownError
    from .reference.explain import explain as page

    try:
        click.echo(page(name))
    except UnknownError as error:
        raise click.UsageError(str(error)) from None


@main.command(short_help="List the rules.")
@click.option(
    "--family", shell_complete=completion.families, help="Only rules whose id starts with this, for example TP."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def rules(family: str | None, as_json: bool) -> None:
    """List the rules: id, severity, and the problem that each one reports."""
    from .rules import RULES

    chosen = [rule for rule in RULES if rule.__name__.startswith((family or "").upper())]
    if not chosen:
        raise click.UsageError(f"There is no rule whose id starts with {family}.")
    if as_json:
        rows = [{"id": r.__name__, "severity": r.severity, "title": r.title(), "source": r.source} for r in chosen]
        click.echo(json.dumps(rows, indent=1))
        return
    for rule in chosen:
        click.echo(f"{rule.__name__:<8}{rule.severity:<9}{rule.title()}")


@main.command(context_settings={"ignore_unknown_options": True}, short_help="Judge a plan without running anything.")
@click.argument("overrides", nargs=-1, shell_complete=completion.overrides)
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON: verdict, findings, ledger, settings and environment."
)
@of_an_app
def check(overrides: tuple[str, ...], as_json: bool, primary: "Primary") -> None:
    """Compose OVERRIDES and judge the result without running anything: our own config, or with -C --config-name your app's."""
    from .compose.check import check as judge
    from .presets.tables import facts_of, summary
    from .resolver.ledger_table import make_console, print_ledger

    verdict = judge(overrides, primary=primary)
    if as_json:
        answer = verdict.to_dict()
        if verdict.resolution is not None:
            answer["userbuffers_plan"] = facts_of(verdict.resolution)
        click.echo(json.dumps(answer, indent=1))
    elif verdict.resolution is None:
        click.echo(verdict.text)
    else:
        print_ledger(verdict.resolution, make_console())
        if text := summary(verdict.resolution):
            click.echo(f"\n{text}")
    sys.exit(verdict.exit_code)


@main.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": [], "allow_interspersed_args": False},
    short_help="Train, rehearse or dry-run a plan; -m sweeps.",
)
@click.argument("overrides", nargs=-1, type=click.UNPROCESSED, shell_complete=completion.overrides)
def train(overrides: tuple[str, ...]) -> None:
    """Train a plan with megatron-core, or rehearse it on a machine without GPUs. Every option is Hydra's: see train --help."""
    from .train import command

    sys.argv[1:] = overrides
    command()


@main.command(
    context_settings={"ignore_unknown_options": True}, short_help="Show what this machine has and what is missing."
)
@click.argument("overrides", nargs=-1, shell_complete=completion.overrides)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: verdict and every check.")
@of_an_app
def doctor(overrides: tuple[str, ...], as_json: bool, primary: "Primary") -> None:
    """Show what this machine has, what is missing and what that rules out; with OVERRIDES, also compare their environment."""
    from .compose.check import check as judge
    from .machine.doctor import WRONG, compare_environment, examine
    from .machine.doctor_table import print_diagnoses

    diagnoses = list(examine())
    if overrides or not primary.ours:
        verdict = judge(overrides, trainer="other", primary=primary)
        if verdict.resolution is None:
            click.echo(json.dumps(verdict.to_dict(), indent=1) if as_json else verdict.text)
            sys.exit(verdict.exit_code)
        diagnoses += compare_environment(verdict.resolution)
    wrong = any(diagnosis.state == WRONG for diagnosis in diagnoses)
    if as_json:
        rows = [diagnosis.to_dict() for diagnosis in diagnoses]
        click.echo(json.dumps({"verdict": WRONG if wrong else "ok", "diagnoses": rows}, indent=1))
    else:
        print_diagnoses(diagnoses)
    sys.exit(1 if wrong else 0)


@main.group(invoke_without_command=True, short_help="List, show and compare userbuffers presets.")
@click.option("--gpu", shell_complete=completion.gpus, help="Only presets tuned on this GPU, for example h100.")
@click.option("--tp", type=int, help="Only presets for this TP size.")
@click.option("--cp", type=int, help="Only presets for this CP size.")
@click.option("--hidden", "hidden_size", type=int, help="Only presets for this hidden size.")
@click.option("--precision", type=click.Choice(["bf16", "fp8"]), help="Only presets tuned in this precision.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def presets(context: click.Context, /, as_json: bool, **wanted: int | str | None) -> None:
    """List the userbuffers presets: what each was tuned for, and which rules refuse it."""
    if context.invoked_subcommand:
        return
    from .presets import catalogue as atlas
    from .presets.tables import listing
    from .resolver.ledger_table import make_console

    said = {name: value for name, value in wanted.items() if value is not None}
    found = [one for one in atlas.catalogue() if all(one.tuned_for[name] == value for name, value in said.items())]
    if as_json:
        click.echo(json.dumps([one.to_dict() for one in found], indent=1))
        return
    make_console().print(listing(found))
    click.echo(f"{len(found)} of {len(atlas.catalogue())} presets")


@presets.command(short_help="Print a preset.")
@click.argument("name", shell_complete=completion.presets)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(name: str, as_json: bool) -> None:
    """Print a preset: source, memory per rank, and what each of the twelve GEMMs overlaps."""
    from .presets.tables import gemm_table, heading, plan_map, shown
    from .resolver.ledger_table import make_console

    one = _preset(name)
    if as_json:
        click.echo(json.dumps(shown(one), indent=1))
        return
    click.echo("\n".join(heading(one)) + "\n")
    make_console().print(gemm_table(plan_map(one), one.layers))


@presets.command()
@click.argument("name", shell_complete=completion.presets)
@click.argument("other", shell_complete=completion.presets)
def diff(name: str, other: str) -> None:
    """Print every value in which two presets differ."""
    from .presets.tables import differing
    from .resolver.ledger_table import make_console

    table = differing(_preset(name), _preset(other))
    if table.row_count:
        make_console().print(table)
    else:
        click.echo("The two presets have the same values.")


@presets.command(context_settings={"ignore_unknown_options": True}, short_help="List the presets nearest to a plan.")
@click.argument("overrides", nargs=-1, shell_complete=completion.overrides)
@click.option("--count", default=5, show_default=True, help="How many presets to list.")
@click.option("--lora", is_flag=True, help="Only presets made for LoRA; without this, only the others.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@of_an_app
def nearest(overrides: tuple[str, ...], count: int, lora: bool, as_json: bool, primary: "Primary") -> None:
    """List the presets nearest to the plan of OVERRIDES at its TP size, and how they differ from it."""
    from .compose.check import check as judge
    from .presets import catalogue as atlas
    from .presets.tables import candidates
    from .resolver.ledger_table import make_console

    verdict = judge(overrides, trainer="other", primary=primary)
    if verdict.resolution is None:
        click.echo(verdict.text)
        sys.exit(verdict.exit_code)
    here = atlas.shape_of(verdict.resolution.request)
    found = atlas.ranked(verdict.resolution.request, lora=lora)[:count]
    if as_json:
        rows = [
            {"preset": c.preset.name, "distance": c.distance, "differences": list(map(str, c.differences))}
            for c in found
        ]
        click.echo(json.dumps(rows, indent=1))
    elif found:
        make_console().print(candidates(found))
    else:
        click.echo(f"There is no preset for TP{here['tp']}; userbuffers=none runs with Transformer Engine's defaults.")


def _preset(name: str) -> "Preset":
    from .presets import catalogue as atlas

    try:
        return atlas.preset(name)
    except atlas.UnknownPresetError as error:
        raise click.UsageError(str(error)) from None


@main.command(context_settings={"ignore_unknown_options": True}, short_help="Export a plan for another launcher.")
@click.argument("target", type=click.Choice(["megatron-lm", "megatron-bridge", "te", "env"]))
@click.argument("overrides", nargs=-1, shell_complete=completion.overrides)
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False),
    help="Write the files into this directory instead of printing them.",
)
@of_an_app
def export(target: str, overrides: tuple[str, ...], output: str | None, primary: "Primary") -> None:
    """Export the plan of OVERRIDES for another launcher: flags, YAML, a userbuffers dictionary or a shell file."""
    import shlex
    from pathlib import Path

    from .compose.check import check as judge
    from .compose.overrides import asked_keys
    from .export import ExportError
    from .export import export as write

    verdict = judge(overrides, trainer="other", primary=primary)
    if verdict.resolution is None:
        click.echo(verdict.text)
        sys.exit(verdict.exit_code)
    try:
        command = shlex.join(["hydra-overlap", "export", target, *overrides])
        files = write(target, verdict.resolution, command, asked=asked_keys(overrides))
    except ExportError as error:
        click.echo(str(error))
        sys.exit(1)
    if output is None:
        several = len(files) > 1
        click.echo("\n".join((f"# ---- {name}\n" if several else "") + text for name, text in files.items()), nl=False)
        return
    try:
        Path(output).mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            Path(output, name).write_text(text)
            click.echo(Path(output, name))
    except OSError as error:
        raise click.UsageError(f"{output} cannot be written: {error.strerror or error}.") from None


@main.command(context_settings={"ignore_unknown_options": True}, short_help="Judge another launcher's configuration.")
@click.argument("source", required=False, shell_complete=completion.source)
@click.argument("overrides", nargs=-1, shell_complete=completion.overrides)
@click.option(
    "--bridge-recipes", type=click.Path(exists=True, dir_okay=False), help="Judge the recorded recipes in this file."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def audit(source: str | None, overrides: tuple[str, ...], bridge_recipes: str | None, as_json: bool) -> None:
    """Judge another launcher's configuration in the file SOURCE (- is standard input), without executing anything.

    SOURCE is a Megatron-LM command line or script, a Megatron-Bridge YAML or list of overrides, or a NeMo-Launcher YAML.
    OVERRIDES set what it leaves open, for example platform=h100 parallelism.world_size=64.
    """
    from pathlib import Path

    if bridge_recipes is not None:
        from .audit import recipes

        try:
            rows = recipes.audit(recipes.load(Path(bridge_recipes)))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise click.UsageError(f"{bridge_recipes} is not a file of recipes: {error}.") from None
        click.echo(json.dumps([row.to_dict() for row in rows], indent=1) if as_json else recipes.report(rows))
        return
    if source is None:
        raise click.UsageError("Missing argument 'SOURCE'.")
    from .audit import UnreadableError
    from .audit import audit as read
    from .errors import GatingError

    file = None if source == "-" else Path(source)
    if file is not None and not file.is_file():
        raise click.UsageError(f"There is no file {source}.")
    try:
        text = sys.stdin.read() if file is None else file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{source} is not a text file: {error}.") from None
    try:
        found = read(text, overrides, folder=Path.cwd() if file is None else file.parent)
    except UnreadableError as error:
        raise click.UsageError(str(error)) from None
    except GatingError as error:
        click.echo(str(error))
        sys.exit(1)
    click.echo(json.dumps(found.to_dict(), indent=1) if as_json else str(found))
    sys.exit(found.exit_code)


@main.command(short_help="Rewrite the results of a sweep.")
@click.argument("folder", type=click.Path(exists=True, file_okay=False))
@click.option(
    "--metric", help="Compare jobs by tokens_per_s, step_ms, loss, peak_memory_gib, or a value that the jobs return."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON and write no files.")
def report(folder: str, metric: str | None, as_json: bool) -> None:
    """Rewrite the results and report.html of the sweep in FOLDER from the records of its jobs; works while it runs."""
    from pathlib import Path

    from .resolver.ledger_table import make_console
    from .sweep import outputs, results
    from .sweep.results_table import print_results

    try:
        table = results.collect(Path(folder).absolute(), metric)
    except FileNotFoundError as missing:
        raise click.UsageError(f"{folder} is not the folder of a sweep: it has no {missing}.") from None
    if as_json:
        click.echo(json.dumps(outputs.as_data(table), indent=1))
        return
    try:
        outputs.write(table, table.folder)
    except OSError as error:
        raise click.UsageError(f"{folder} cannot be written: {error.strerror or error}.") from None
    print_results(table, make_console())


@main.command(short_help="Print the JSON Schema for editors.")
@click.argument("node", default="", shell_complete=completion.nodes)
def schema(node: str) -> None:
    """Print the JSON Schema, for editors, of a primary config or of the option files of NODE (model, comm_overlap.tp)."""
    from .reference.json_schema import UnknownNodeError, text

    try:
        click.echo(text(node), nl=False)
    except UnknownNodeError:
        raise click.UsageError(f"There is no node {node}.") from None


@main.command(short_help="Write a starter app, or an option file of your own.")
@click.argument("kind", type=click.Choice(["app", "experiment", "bundle", "preset"]))
@click.argument("name")
@click.option(
    "-C",
    "--config-dir",
    "--conf",
    "conf",
    type=click.Path(),
    help="Your app's configuration directory (default: conf); for an app, where its directory NAME is made (default: here).",
)
@click.option("--from", "start", shell_complete=completion.starts, help="The shipped option to start from.")
def new(kind: str, name: str, conf: str | None, start: str | None) -> None:
    """Write a starter NAME: an app of its own, or an option file in your configuration directory. No file is ever changed."""
    from pathlib import Path

    from .reference.scaffold import ScaffoldError, write

    try:
        written = write(kind, name, Path(conf or ("." if kind == "app" else "conf")), start)
    except ScaffoldError as error:
        raise click.UsageError(str(error)) from None
    for path in written.files:
        click.echo(path)
    click.echo(f"\nTo check it:  {written.check}", err=True)


if __name__ == "__main__":
    main(prog_name="hydra-overlap")

"""The `hydra-overlap` command: a thin layer over the functions of the package. Never imports torch.

Exit codes: 0 fine, 1 refused (or, for doctor, something is wrong), 2 usage.
"""

import errno
import functools
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import click

from . import _version
from .reference import completion

if TYPE_CHECKING:
    from .audit.verdict import Audit, Audits
    from .compose.check import Primary, Verdict
    from .errors import HydraOverlapError
    from .findings import Finding
    from .presets.catalogue import Preset
    from .resolver.resolution import Resolution

UNUSABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
"""What the system says of a place that a user named and that cannot be read or written."""

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, usage errors included (docs/json.md).")


class FaultError(click.ClickException):
    """A fault of our own, told in a short report with exit code 1; the details are in a file."""

    def __init__(self, error: Exception) -> None:
        from . import faults

        faults.show_traceback(error)
        self.report = faults.report(error, sys.argv)
        super().__init__(str(self.report))

    def show(self, file: Any = None) -> None:
        """The report, on standard error."""
        click.echo(self.message, file=file, err=file is None)


def _told(error: Exception) -> click.ClickException | None:
    """What no command foresaw, as an error that click shows: a place of the user's that cannot be used, or our fault.

    None: it was raised in a file of the user's own, whose traceback is what the user needs.
    """
    from . import faults
    from .errors import HydraOverlapError, disk_full
    from .findings import visible

    refusal = error if isinstance(error, HydraOverlapError) else disk_full(error)
    if refusal is not None:
        return click.ClickException(str(refusal))
    if isinstance(error, OSError) and error.errno in UNUSABLE and isinstance(error.filename, str):
        name = visible(error.filename)
        short = name if len(name) <= 200 else f"{name[:100]}... ({len(name):,} characters)"
        return click.UsageError(f"{short} cannot be read or written: {error.strerror}.")
    return FaultError(error) if faults.in_our_hands(error) else None


def _parted(words: Sequence[str]) -> tuple[list[str], list[str] | None]:
    """Words of a command, and those of another program that come after the first `--`: None where there is no `--`."""
    at = words.index("--") if "--" in words else None
    return list(words[:at]), None if at is None else list(words[at + 1 :])


class Commands(click.Group):
    """Commands that answer a wrong command line in JSON as well, where JSON is asked for."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, standalone_mode: bool = True, **extra: Any) -> Any:  # type: ignore[override]
        """As click's. A usage error is told on standard output if the command is to print JSON."""
        words = list(sys.argv[1:] if args is None else args)
        own, _ = _parted(words)
        if not (standalone_mode and "--json" in own and self._answers(words)):
            return super().main(args, *rest, standalone_mode=standalone_mode, **extra)  # type: ignore[call-overload]
        try:
            code = super().main(args, *rest, standalone_mode=False, **extra)  # type: ignore[call-overload]
        except FaultError as fault:
            from .answers import answer

            click.echo(answer(words[0], "failed", fault.exit_code, findings=(fault.report.finding,)))
            sys.exit(fault.exit_code)
        except click.ClickException as error:
            from .answers import usage_error

            click.echo(usage_error(words[0], error.format_message(), error.exit_code))
            sys.exit(error.exit_code)
        except click.Abort:
            sys.exit(1)
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: click.Context) -> Any:
        """As click's. Whatever no command foresaw is told without a traceback."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:
            told = _told(error)
            if told is None:
                raise
            raise told from error

    def _answers(self, words: Sequence[str]) -> bool:
        """Whether the command that is called has a --json of its own; train hands all its words to Hydra."""
        command = self.commands.get(words[0])
        return command is not None and any(option.name == "as_json" for option in command.params)


def _say(
    as_json: bool, verdict: str, exit_code: int, *, findings: "Sequence[Finding]" = (), result: Any = None
) -> bool:
    """Print the answer of the running command if JSON is asked for; -> whether it was."""
    if as_json:
        from .answers import answer

        command = click.get_current_context().command_path.partition(" ")[2]
        click.echo(answer(command, verdict, exit_code, findings=findings, result=result))
    return as_json


def _facts(found: "Audit | Audits") -> dict[str, Any]:
    """What an audit found, for JSON, without what the answer says of it anyway."""
    return {name: value for name, value in found.to_dict().items() if name not in ("verdict", "findings")}


def _refuse(told: "Verdict | HydraOverlapError", as_json: bool) -> NoReturn:
    """Print a refusal and end with its exit code."""
    from .errors import USAGE

    verdict = "usage error" if told.exit_code == USAGE else "refused"
    if not _say(as_json, verdict, told.exit_code, findings=told.findings):
        from .screen import make_console, print_told

        print_told(told, make_console())
    sys.exit(told.exit_code)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
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


@main.command(
    context_settings={"ignore_unknown_options": True}, short_help="Explain a rule, a field, a flag, an option."
)
@click.argument("name", shell_complete=completion.pages)
@JSON
def explain(name: str, as_json: bool) -> None:
    """Print what NAME is and what reads it.

    NAME is a rule (TP002), a derivation (TP101), a field (bucket_size), a flag of Megatron-LM (--tp-comm-overlap), a variable of
    the environment, a group (userbuffers), or an option of one (tp4_h100, comm_overlap=dp).
    """
    from .reference.explain import UnknownError
    from .reference.explain import explain as page

    try:
        found = page(name)
    except UnknownError as error:
        raise click.UsageError(str(error)) from None
    if not _say(as_json, "ok", 0, result=found.to_dict()):
        from .screen import make_console, print_lines

        console = make_console()
        print_lines(found.lines(console.width), console)


@main.command(short_help="List the rules.")
@click.option(
    "--family", shell_complete=completion.families, help="Only rules whose id starts with this, for example TP."
)
@JSON
def rules(family: str | None, as_json: bool) -> None:
    """List the rules: id, severity, and the problem that each one reports."""
    from .rules import RULES

    chosen = [rule for rule in RULES if rule.__name__.startswith((family or "").upper())]
    if not chosen:
        raise click.UsageError(f"There is no rule whose id starts with {family}.")
    found = [{"id": r.__name__, "severity": r.severity, "title": r.title(), "source": r.source} for r in chosen]
    if not _say(as_json, "ok", 0, result=found):
        from .reference.rules_list import print_rules
        from .screen import make_console

        print_rules(chosen, make_console())


@main.command(context_settings={"ignore_unknown_options": True}, short_help="Judge a plan without running anything.")
@click.argument("overrides", nargs=-1, shell_complete=completion.overrides)
@click.option("-v", "--verbose", is_flag=True, help="Print every overlap field, with the reason for its value.")
@JSON
@of_an_app
def check(overrides: tuple[str, ...], verbose: bool, as_json: bool, primary: "Primary") -> None:
    """Compose OVERRIDES and judge the result without running anything: our own config, or with -C --config-name your app's."""
    from .compose.check import check as judge
    from .reference.accepted import print_accepted
    from .screen import make_console

    verdict = judge(overrides, primary=primary)
    resolution = verdict.resolution
    if resolution is None:
        _refuse(verdict, as_json)
    elif not _say(as_json, "accepted", 0, findings=resolution.findings, result=_plan(resolution)):
        print_accepted(resolution, make_console(), verbose=verbose)


def _plan(resolution: "Resolution") -> dict[str, Any]:
    """An accepted plan for programs. Its findings stand beside it in every answer."""
    from .presets.one_line import in_one_line
    from .presets.tables import facts_of

    plan = {name: value for name, value in resolution.to_dict().items() if name != "findings"}
    return {"summary": in_one_line(resolution), **plan, "userbuffers_plan": facts_of(resolution)}


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
@JSON
@of_an_app
def doctor(overrides: tuple[str, ...], as_json: bool, primary: "Primary") -> None:
    """Show what this machine has, what is missing and what that rules out; with OVERRIDES, also compare their environment."""
    from .compose.check import check as judge
    from .machine.doctor import WRONG, compare_environment, examine
    from .machine.doctor_table import print_diagnoses
    from .screen import make_console

    diagnoses = list(examine())
    if overrides or not primary.ours:
        verdict = judge(overrides, trainer="other", primary=primary)
        if verdict.resolution is None:
            _refuse(verdict, as_json)
        diagnoses += compare_environment(verdict.resolution)
    wrong = any(diagnosis.state == WRONG for diagnosis in diagnoses)
    rows = [diagnosis.to_dict() for diagnosis in diagnoses]
    if not _say(as_json, WRONG if wrong else "ok", int(wrong), result=rows):
        print_diagnoses(diagnoses, make_console())
    sys.exit(int(wrong))


@main.group(invoke_without_command=True, short_help="List, show and compare userbuffers presets.")
@click.option("--gpu", shell_complete=completion.gpus, help="Only presets tuned on this GPU, for example h100.")
@click.option("--tp", type=int, help="Only presets for this TP size.")
@click.option("--cp", type=int, help="Only presets for this CP size.")
@click.option("--hidden", "hidden_size", type=int, help="Only presets for this hidden size.")
@click.option("--precision", type=click.Choice(["bf16", "fp8"]), help="Only presets tuned in this precision.")
@JSON
@click.pass_context
def presets(context: click.Context, /, as_json: bool, **wanted: int | str | None) -> None:
    """List the userbuffers presets: what each was tuned for, and which rules refuse it."""
    if context.invoked_subcommand:
        return
    from .presets import catalogue as atlas
    from .presets.tables import print_listing
    from .screen import make_console

    said = {name: value for name, value in wanted.items() if value is not None}
    found = [one for one in atlas.catalogue() if all(one.tuned_for[name] == value for name, value in said.items())]
    if not _say(as_json, "ok", 0, result=[one.to_dict() for one in found]):
        print_listing(found, len(atlas.catalogue()), make_console())


@presets.command(short_help="Print a preset.")
@click.argument("name", shell_complete=completion.presets)
@JSON
def show(name: str, as_json: bool) -> None:
    """Print a preset: source, memory per rank, and what each of the twelve GEMMs overlaps."""
    from .presets.tables import print_preset, shown
    from .screen import make_console

    one = _preset(name)
    if not _say(as_json, "ok", 0, result=shown(one)):
        print_preset(one, make_console())


@presets.command()
@click.argument("name", shell_complete=completion.presets)
@click.argument("other", shell_complete=completion.presets)
@JSON
def diff(name: str, other: str, as_json: bool) -> None:
    """Print every value in which two presets differ."""
    from .presets.tables import differing, print_differing
    from .screen import make_console

    one, two = _preset(name), _preset(other)
    rows = [{"key": key, name: left, other: right} for key, left, right in differing(one, two)]
    if not _say(as_json, "ok", 0, result=rows):
        print_differing(one, two, make_console())


@presets.command(context_settings={"ignore_unknown_options": True}, short_help="List the presets nearest to a plan.")
@click.argument("overrides", nargs=-1, shell_complete=completion.overrides)
@click.option("--count", default=5, show_default=True, help="How many presets to list.")
@click.option("--lora", is_flag=True, help="Only presets made for LoRA; without this, only the others.")
@JSON
@of_an_app
def nearest(overrides: tuple[str, ...], count: int, lora: bool, as_json: bool, primary: "Primary") -> None:
    """List the presets nearest to the plan of OVERRIDES at its TP size, and how they differ from it."""
    from .compose.check import check as judge
    from .presets import catalogue as atlas
    from .presets.tables import print_candidates
    from .screen import make_console

    verdict = judge(overrides, trainer="other", primary=primary)
    if verdict.resolution is None:
        _refuse(verdict, as_json)
    here = atlas.shape_of(verdict.resolution.request)
    found = atlas.ranked(verdict.resolution.request, lora=lora)[:count]
    rows = [
        {"preset": c.preset.name, "distance": c.distance, "differences": list(map(str, c.differences))} for c in found
    ]
    if _say(as_json, "ok", 0, result=rows):
        return
    if found:
        print_candidates(found, make_console())
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
@JSON
@of_an_app
def export(target: str, overrides: tuple[str, ...], output: str | None, as_json: bool, primary: "Primary") -> None:
    """Export the plan of OVERRIDES for another launcher: flags, YAML, a userbuffers dictionary or a shell file."""
    from pathlib import Path

    from . import quoting
    from .compose.check import check as judge
    from .compose.overrides import asked_keys
    from .export import ExportError
    from .export import export as write

    verdict = judge(overrides, trainer="other", primary=primary)
    if verdict.resolution is None:
        _refuse(verdict, as_json)
    try:
        command = quoting.command(["hydra-overlap", "export", target, *overrides])
        files = write(target, verdict.resolution, command, asked=asked_keys(overrides))
    except ExportError as error:
        _refuse(error, as_json)
    if output is None:
        if _say(as_json, "ok", 0, findings=verdict.findings, result={"files": files}):
            return
        several = len(files) > 1
        click.echo("\n".join((f"# ---- {name}\n" if several else "") + text for name, text in files.items()), nl=False)
        return
    try:
        Path(output).mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            Path(output, name).write_text(text)
    except OSError as error:
        raise click.UsageError(f"{output} cannot be written: {error.strerror or error}.") from None
    paths = [str(Path(output, name)) for name in files]
    if not _say(as_json, "ok", 0, findings=verdict.findings, result={"paths": paths}):
        click.echo("\n".join(paths))


class WithArguments(click.Command):
    """A command that gets the words after the first `--` as `arguments`: None where there is no `--`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click's, for the words before `--`."""
        own, rest = _parted(args)
        left = super().parse_args(ctx, own)
        ctx.params["arguments"] = None if rest is None else tuple(rest)
        return left

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """As click's, with what follows `--`."""
        return [*super().collect_usage_pieces(ctx), "[-- ARGUMENTS...]"]


@main.command(
    cls=WithArguments,
    context_settings={"ignore_unknown_options": True},
    short_help="Judge another launcher's configuration.",
)
@click.argument("source", required=False, shell_complete=completion.source)
@click.argument("overrides", nargs=-1, shell_complete=completion.overrides)
@click.option(
    "--bridge-recipes", type=click.Path(exists=True, dir_okay=False), help="Judge the recorded recipes in this file."
)
@JSON
def audit(
    source: str | None,
    overrides: tuple[str, ...],
    bridge_recipes: str | None,
    as_json: bool,
    arguments: tuple[str, ...] | None,
) -> None:
    """Judge another launcher's configuration in the file SOURCE (- is standard input), without executing anything.

    SOURCE is a Megatron-LM command line or script, a Megatron-Bridge YAML or list of overrides, or a NeMo-Launcher YAML.
    OVERRIDES set what it leaves open, for example platform=h100 parallelism.world_size=64, and variables around a script, for
    example NNODES=4. ARGUMENTS are those of the script.
    """
    if bridge_recipes is not None:
        from pathlib import Path

        from .audit import recipes

        try:
            rows = recipes.audit(recipes.load(Path(bridge_recipes)))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise click.UsageError(f"{bridge_recipes} is not a file of recipes: {error}.") from None
        if not _say(as_json, "ok", 0, result=[row.to_dict() for row in rows]):
            click.echo(recipes.report(rows))
        return
    if source is None:
        raise click.UsageError("Missing argument 'SOURCE'.")
    from .audit import UnreadableError
    from .audit import audit as read
    from .audit.overrides import OverrideError
    from .audit.screen import print_audit
    from .audit.source import read as read_source
    from .errors import GatingError
    from .screen import make_console

    try:
        text, folder = read_source(source)
        found = read(text, overrides, folder=folder, arguments=arguments)
    except UnreadableError as error:
        raise click.UsageError(str(error)) from None
    except (GatingError, OverrideError) as error:
        _refuse(error, as_json)
    result = _facts(found)
    if not _say(as_json, found.verdict, found.exit_code, findings=found.findings, result=result):
        print_audit(found, make_console())
    sys.exit(found.exit_code)


class BeforeLauncher(click.Command):
    """A command whose words after the first `--` are those of another program, which it gets as `launcher`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click's, for the words before `--`. Raises UsageError if no launcher follows."""
        own, rest = _parted(args)
        left = super().parse_args(ctx, own)
        if not rest and not ctx.resilient_parsing:
            raise click.UsageError(f"Write -- and the launcher after it: {ctx.command_path} -- {self.example}", ctx)
        ctx.params["launcher"] = tuple(rest or ())
        return left

    @property
    def example(self) -> str:
        """Words that can follow."""
        return {"gate": "torchrun --nproc-per-node 8 pretrain_gpt.py ...", "record": "bash script.sh"}[self.name or ""]

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """As click's, with what follows `--`."""
        return [
            *super().collect_usage_pieces(ctx),
            "--",
            {"gate": "LAUNCHER...", "record": "SCRIPT..."}[self.name or ""],
        ]


@main.command(
    cls=BeforeLauncher,
    context_settings={"ignore_unknown_options": True},
    short_help="Judge a launch where it stands, then let it start.",
)
@click.argument("overrides", nargs=-1, shell_complete=completion.overrides)
@click.option("--report-only", is_flag=True, help="Start the launcher whatever the verdict is.")
@click.option("--print", "only_print", is_flag=True, help="Print the verdict, on standard output, and start nothing.")
@JSON
def gate(
    overrides: tuple[str, ...], report_only: bool, only_print: bool, as_json: bool, launcher: tuple[str, ...]
) -> None:
    """Judge the launch after --, with the arguments and the environment it really has, and then become the launcher.

    For torchrun, python -m torch.distributed.run, srun, mpirun, deepspeed, or python pretrain_gpt.py. A refused launch does not
    start, with exit code 1; any other one starts as if this command were not there. OVERRIDES set what the launch does not say,
    for example platform=h100. The verdict is printed on standard error, by one rank alone.
    """
    import os

    from .audit import UnreadableError
    from .audit.gate import become, first_rank, judge
    from .audit.overrides import OverrideError
    from .audit.screen import print_audit
    from .errors import GatingError
    from .screen import make_console

    if report_only and only_print:
        raise click.UsageError(
            "--report-only and --print exclude each other: one always starts the launcher, one never."
        )
    try:
        found = judge(launcher, os.environ, overrides)
    except UnreadableError as error:
        if not report_only:
            raise click.UsageError(str(error)) from None
        click.echo(f"hydra-overlap gate: nothing was judged. {error}", err=True)
        become(launcher)
    except (GatingError, OverrideError) as error:
        _refuse(error, as_json)
    starts = not only_print and (report_only or found.verdict != "refused")
    exit_code = 0 if starts else found.exit_code
    if first_rank(os.environ):
        result = _facts(found)
        result["starts"] = starts
        if as_json:
            from .answers import answer

            text = answer("gate", found.verdict, exit_code, findings=found.findings, result=result)
            click.echo(text, err=not only_print)
        else:
            print_audit(found, make_console(stderr=not only_print))
            if not starts and not only_print:
                click.echo(
                    "\nNothing was started. To start it all the same: hydra-overlap gate --report-only -- ...", err=True
                )
    if starts:
        become(launcher)
    sys.exit(exit_code)


@main.command(
    cls=BeforeLauncher,
    context_settings={"ignore_unknown_options": True},
    short_help="Judge every launch that a script makes; start none.",
)
@click.argument("overrides", nargs=-1, shell_complete=completion.overrides)
@JSON
def record(overrides: tuple[str, ...], as_json: bool, launcher: tuple[str, ...]) -> None:
    """Run the script after -- with its launchers replaced by recorders, and judge each launch that it would have made.

    No launcher starts, and no Python program that trains. All other commands of the script do run: they write and delete files,
    download and install as they always do. OVERRIDES set what the launches do not say, for example platform=h100.
    """
    import os
    import shlex

    from .audit.overrides import OverrideError
    from .audit.record import judge
    from .audit.record import record as run
    from .audit.screen import print_audit
    from .errors import GatingError
    from .screen import make_console

    script = shlex.join(launcher)
    click.echo(f"Recording {script}: its launchers are not started; all its other commands run.", err=True)
    try:
        recording = run(launcher, os.environ)
    except OSError as error:
        raise click.UsageError(f"{launcher[0]} cannot be run: {error.strerror}.") from None
    try:
        found, left = judge(recording, overrides)
    except (GatingError, OverrideError) as error:
        _refuse(error, as_json)
    if found is None:
        why = "\n".join(left) or f"{script} started no launcher and no Python program that trains."
        raise click.UsageError(f"Nothing can be judged (the script ended with exit code {recording.exit_code}). {why}")
    result = _facts(found)
    result |= {"launches": [list(one.words) for one in recording.launches], "not_judged": left}
    result |= {"script_exit_code": recording.exit_code, "job": dict(recording.job)}
    if not _say(as_json, found.verdict, found.exit_code, findings=found.findings, result=result):
        for said in recording.told:
            click.echo(said)
        click.echo()
        print_audit(found, make_console())
        for said in left:
            click.echo(f"\nnot judged: {said}")
    sys.exit(found.exit_code)


@main.command(short_help="Measure how much communication compute hid in a recorded run.")
@click.argument("sources", metavar="TRACE...", nargs=-1, required=True, type=click.Path())
@JSON
def trace(sources: tuple[str, ...], as_json: bool) -> None:
    """Measure how much of its communication a run hid, from TRACEs of torch's profiler: files of ranks, or their folder.

    Traces of any program can be read, plain or gzip. Userbuffers, DeepEP and peer copies count as communication, not as compute.
    """
    from pathlib import Path

    try:
        from .trace.command import measured
        from .trace.events import TraceError
    except ImportError:
        from . import commands

        raise click.UsageError(f"Reading traces needs msgspec and numpy: {commands.install('trace')}") from None
    try:
        found = measured([Path(source) for source in sources])
    except TraceError as error:
        raise click.UsageError(str(error)) from None
    if not _say(as_json, "ok", 0, result=[one.to_dict() for one in found]):
        from .screen import make_console
        from .trace.table import print_measured

        print_measured(found, make_console())


@main.command(short_help="Rewrite the results of a sweep.")
@click.argument("folder", type=click.Path(exists=True, file_okay=False))
@click.option(
    "--metric", help="Compare jobs by tokens_per_s, step_ms, loss, peak_memory_gib, or a value that the jobs return."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON and write no files (docs/json.md).")
def report(folder: str, metric: str | None, as_json: bool) -> None:
    """Rewrite the results and report.html of the sweep in FOLDER from the records of its jobs; works while it runs."""
    from pathlib import Path

    from .screen import make_console
    from .sweep import outputs, results
    from .sweep.results_table import print_results

    try:
        table = results.collect(Path(folder).absolute(), metric)
    except FileNotFoundError as missing:
        raise click.UsageError(f"{folder} is not the folder of a sweep: it has no {missing}.") from None
    if _say(as_json, "ok", 0, result=outputs.as_data(table) if as_json else None):
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
@JSON
def new(kind: str, name: str, conf: str | None, start: str | None, as_json: bool) -> None:
    """Write a starter NAME: an app of its own, or an option file in your configuration directory. No file is ever changed."""
    from pathlib import Path

    from .reference.scaffold import ScaffoldError, write

    try:
        written = write(kind, name, Path(conf or ("." if kind == "app" else "conf")), start)
    except ScaffoldError as error:
        raise click.UsageError(str(error)) from None
    paths = [str(path) for path in written.files]
    if not _say(as_json, "ok", 0, result={"paths": paths, "check": written.check}):
        click.echo("\n".join(paths))
        click.echo(f"\nTo check it:  {written.check}", err=True)


if __name__ == "__main__":
    main(prog_name="hydra-overlap")

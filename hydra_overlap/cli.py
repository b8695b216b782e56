"""The `hydra-overlap` command: a thin layer over the functions of the package. Never imports torch.

Exit codes: 0 fine, 1 refused (or, for doctor, something is wrong), 2 usage.
"""

import json
import sys

import click

from . import _version


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(_version.__version__, prog_name="hydra-overlap")
def main() -> None:
    """Communication overlap for Megatron: judge, explain, look at this machine."""


@main.command()
@click.argument("name")
def explain(name: str) -> None:
    """Print the page of a rule (TP002), a derivation (TP101) or a field (comm_overlap.dp.bucket_size)."""
    from .explain import UnknownError
    from .explain import explain as page

    try:
        click.echo(page(name))
    except UnknownError as error:
        raise click.UsageError(str(error)) from None


@main.command()
@click.option("--family", help="Only rules whose id starts with this, such as TP.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def rules(family: str | None, as_json: bool) -> None:
    """List the rules: id, severity, what must hold."""
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


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("overrides", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="For programs: verdict, findings, ledger, settings, environment.")
def check(overrides: tuple[str, ...], as_json: bool) -> None:
    """Compose OVERRIDES, as train.py would, and judge them without running anything."""
    from .checking import check as judge
    from .report.ledger import make_console, print_ledger

    verdict = judge(overrides)
    if as_json:
        click.echo(json.dumps(verdict.to_dict(), indent=1))
    elif verdict.resolution is None:
        click.echo(verdict.text)
    else:
        print_ledger(verdict.resolution, make_console())
    sys.exit(verdict.exit_code)


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("overrides", nargs=-1)
def doctor(overrides: tuple[str, ...]) -> None:
    """Say what this machine has, what is missing and what that forbids; with OVERRIDES, compare their environment."""
    from .checking import check as judge
    from .doctor import WRONG, compare_environment, examine
    from .report.doctor import print_diagnoses

    diagnoses = list(examine())
    if overrides:
        verdict = judge(overrides)
        if verdict.resolution is None:
            click.echo(verdict.text)
            sys.exit(verdict.exit_code)
        diagnoses += compare_environment(verdict.resolution)
    print_diagnoses(diagnoses)
    sys.exit(1 if any(diagnosis.state == WRONG for diagnosis in diagnoses) else 0)


if __name__ == "__main__":
    main(prog_name="hydra-overlap")

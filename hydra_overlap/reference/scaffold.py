"""Starter files: an app, or an option of one's own in an app's configuration directory. Each composes and is judged as it stands."""

import re
from dataclasses import dataclass
from pathlib import Path

from .. import option_files, quoting
from ..errors import HydraOverlapError
from ..suggest import nearest
from . import json_schema

FOLDERS = {"bundle": "comm_overlap", "preset": "userbuffers", "experiment": "experiment", "app": "comm_overlap"}
"""Kind -> the group that its starting point is an option of."""

STARTS = {
    "bundle": "default",
    "preset": "bf16_h100_h8192_tp4_mbs1_seq8192",
    "experiment": "llama3_8b_8gpu_h100_bf16",
    "app": "default",
}
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
SCHEMA = "schema.json"  # beside the option: editors look from there, Hydra takes .yaml alone for options
HEADER = f"# yaml-language-server: $schema={SCHEMA}"

BUNDLE = """\
# @package _global_
# {name}: one line that says what this bundle is for.
# extends {start}; measured by us: no
{header}
# Use: python your_app.py +comm_overlap={name}
defaults:
  - {start}  # brings the schema and the check
  # - override /comm_overlap/dp@_global_.comm_overlap.dp: default   # one dimension: tp, pp, dp or ep
  # - override /userbuffers@_global_.userbuffers: none
  # - override /overlap/parallelism: tp4      # in an app; for hydra-overlap train: /parallelism@_global_.parallelism
  - _self_

# Values that differ from the option files above, by their full names; null = decide for me:
# comm_overlap:
#   dp:
#     bucket_size: null  # parameters, not bytes
"""

EXPERIMENT = """\
# @package _global_
# {name}: one line that says what this experiment is for.
# extends {start}; measured by us: no
{header}
# Use: hydra-overlap train --config-dir {conf} experiment={name}
defaults:
  - {start}  # brings its model, bundle, precision and layout
  # - override /comm_overlap/dp: overlap   # one dimension: tp, pp, dp or ep
  # - override /precision: bf16
  - _self_

# Values that differ from it, by their full names:
# training:
#   global_batch_size: 256  # samples
"""

APP = """\
\"\"\"{name}: a Hydra app whose communication overlap is judged when its config is composed.

    python app.py                                                     the plan of conf/config.yaml
    python app.py parallelism.tensor_model_parallel_size=3            refused, with overrides that fix it
    python app.py -m comm_overlap=none,dp                             one run after the other
    hydra-overlap check -C conf --config-name config                  only the verdict
    hydra-overlap new bundle mine -C conf                             a bundle of your own
\"\"\"

import hydra
from omegaconf import DictConfig

from hydra_overlap import judged, run_app


@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(cfg: DictConfig) -> None:
    resolution = judged(cfg, foreign_nodes=True)  # first of all; raises if this config was not judged as it is
    # Before torch is imported: resolution.env is set already, by Hydra.
    # With your megatron-core objects: resolution.apply(transformer_config, optimizer_config, ddp_config)
    for name, value in {{**resolution.transformer_config, **resolution.ddp_config}}.items():
        print(f"{{name}}={{value}}")


if __name__ == "__main__":
    run_app(main)  # main() works as well; run_app explains mistakes on the command line
"""

CONFIG = """\
# {name}: the primary config of app.py.
{header}
defaults:
  - comm_overlap: {start}  # the overlaps that are asked for; a bundle brings the layout and the platform it was made for
  - _self_

# What the rules read of your job, by megatron-core's names (hydra-overlap explain model.hidden_size). If your config keeps a
# value under another key, name it: overlap: {{reads: {{model: {{hidden_size: net.d_model}}}}}}
model:
  num_layers: 32
  hidden_size: 4096
  num_attention_heads: 32
  seq_length: 4096  # tokens

training:
  micro_batch_size: 1  # samples
  global_batch_size: 64  # samples

precision:
  bf16: true

ddp:
  use_distributed_optimizer: true

optimizer:
  use_distributed_optimizer: true
"""


@dataclass(frozen=True, kw_only=True)
class Written:
    """Files that were written, the one to edit first, and the command that checks them."""

    files: tuple[Path, ...]
    check: str


class ScaffoldError(HydraOverlapError):
    """A file that cannot be written: its name, its place, or one that is there already."""


def write(kind: str, name: str, conf: Path, start: str | None = None) -> Written:
    """Write the files of a kind and, where there is none yet, the schema that their header names.

    kind: bundle, preset, experiment or app. conf: the app's configuration directory; for an app, the directory in which its
    own directory NAME is made. start: the shipped option to begin with. Raises ScaffoldError.
    """
    group = FOLDERS[kind]
    known = option_files.options(group)
    origin = start or STARTS[kind]
    if not NAME.fullmatch(name):
        raise ScaffoldError(
            f"{name!r} is not a valid option name: use a letter, then letters, digits and underscores.{_other(name)}"
        )
    if not _is_text(name):
        raise ScaffoldError(
            f"{name!r} is not a valid option name: YAML or Hydra reads it as another value.{_other(name)}"
        )
    if name in known and kind != "app":
        raise ScaffoldError(
            f"{group}={name} is shipped with hydra-overlap; one file of that name would hide the other."
        )
    if origin not in known:
        match = nearest(origin, known)
        raise ScaffoldError(f"There is no {group}={origin}." + (f" Did you mean {match}?" if match else ""))
    if not conf.is_dir():
        raise ScaffoldError(f"There is no directory {conf}; name your app's configuration directory with -C.")
    made = _app(name, conf, origin) if kind == "app" else _option(kind, name, conf, origin)
    for file in made.texts:
        if file.exists() and file.name != SCHEMA:
            raise ScaffoldError(f"{file} already exists; it was not changed.")
    texts = {file: text for file, text in made.texts.items() if not file.exists()}
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    except OSError as error:
        raise ScaffoldError(f"{error.filename} cannot be written: {error.strerror or error}.") from None
    return Written(files=tuple(texts), check=quoting.command(["hydra-overlap", "check", *made.check]))


@dataclass(frozen=True)
class _Made:
    """Texts by file, and what `hydra-overlap check` is to be given."""

    texts: dict[Path, str]
    check: tuple[str, ...]


def _option(kind: str, name: str, conf: Path, origin: str) -> _Made:
    group = FOLDERS[kind]
    words = {"name": name, "start": origin, "header": HEADER, "conf": quoting.command([str(conf)])}
    texts = {
        "bundle": lambda: BUNDLE.format(**words),
        "experiment": lambda: EXPERIMENT.format(**words),
        "preset": lambda: _preset(name, origin),
    }
    node = group if kind == "preset" else ""  # the others may say anything that a primary config may
    files = {conf / group / f"{name}.yaml": texts[kind](), conf / group / SCHEMA: json_schema.text(node)}
    # A preset is used by a plan that asks for TP overlap, and is compared with its shape.
    chosen = (f"comm_overlap={_bundle_of(origin)}", f"{group}={name}") if kind == "preset" else (f"{group}={name}",)
    return _Made(files, ("-C", str(conf), *chosen))


def _bundle_of(preset: str) -> str:
    """A shipped bundle with TP overlap; the one that uses the preset, where there is one."""
    bundles = [
        name for name in option_files.options("comm_overlap") if preset in option_files.text("comm_overlap", name)
    ]
    return bundles[0] if bundles else "tp4_h100"


def _app(name: str, parent: Path, origin: str) -> _Made:
    conf = parent / name / "conf"
    header = "# yaml-language-server: $schema=schema.json"
    files = {
        parent / name / "app.py": APP.format(name=name),
        conf / "config.yaml": CONFIG.format(name=name, start=origin, header=header),
        conf / SCHEMA: json_schema.text(""),
    }
    return _Made(files, ("-C", str(conf), "--config-name", "config"))


def _is_text(name: str) -> bool:
    """Whether `- comm_overlap: NAME` and `comm_overlap=NAME` both mean the option: not on, null, nan."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    typed: object = OverridesParser.create().parse_override(f"group={name}").value()
    return isinstance(typed, str) and isinstance(option_files.parse(name), str)


def _other(name: str) -> str:
    """The way out, where `my_` before it makes a name."""
    return f" Say my_{name}." if NAME.fullmatch(f"my_{name}") else ""


def _preset(name: str, origin: str) -> str:
    """The shipped preset under a new name, with the lines to change marked."""
    shipped = option_files.text("userbuffers", origin).splitlines()
    body = [line for line in shipped if not line.startswith(("#", "name:", "source:"))]
    return (
        "\n".join(
            [
                f"# {name}: what it is tuned for, in one line.",
                "# source: where the values are published; measured by us: no",
                HEADER,
                f"# Begun from {origin}. `tuned_for` is compared with the plan; every entry is judged (hydra-overlap explain UB002).",
                f"name: {name}",
                "source: where the values are published",
                *body,
            ]
        )
        + "\n"
    )

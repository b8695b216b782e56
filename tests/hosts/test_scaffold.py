"""`hydra-overlap new`: starter files that compose and are judged as they stand, and never take the place of others."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from hydra_overlap import option_files
from hydra_overlap.cli import main
from hydra_overlap.compose.enforce import judged
from hydra_overlap.reference.json_schema import schema
from hydra_overlap.reference.scaffold import FOLDERS
from tests import warm
from tests.each import each

EFFECTIVE = ("transformer_config", "optimizer_config", "ddp_config", "userbuffers", "env")
HOST = "precision: {bf16: true}\n"


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    (tmp_path / "host.yaml").write_text(HOST)
    return tmp_path


def new(*arguments: str):
    return CliRunner().invoke(main, ["new", *arguments])


def composed(conf: Path, *overrides: str):
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf), version_base=None):
        return judged(compose("host", list(overrides)), foreign_nodes=True)


def test_a_new_bundle_composes_in_the_app_as_it_stands(conf: Path) -> None:
    done = new("bundle", "mine", "-C", str(conf), "--from", "tp4_h100")
    written = [str(conf / "comm_overlap" / name) for name in ("mine.yaml", "schema.json")]
    assert done.exit_code == 0 and done.stdout.splitlines() == written
    assert composed(conf, "+comm_overlap=mine").transformer_config["tp_comm_overlap"] is True


def test_a_new_preset_is_chosen_by_a_bundle(conf: Path) -> None:
    assert new("preset", "mine", "-C", str(conf)).exit_code == 0
    resolution = composed(conf, "+comm_overlap=tp4_h100", "userbuffers=mine")
    assert resolution.request["userbuffers"]["name"] == "mine"
    assert resolution.userbuffers == composed(conf, "+comm_overlap=tp4_h100").userbuffers


@pytest.mark.parametrize("kind", ["app", "experiment", "bundle", "preset"])
def test_a_file_that_is_there_is_not_touched(conf: Path, kind: str) -> None:
    path = Path(new(kind, "mine", "-C", str(conf)).stdout.splitlines()[0])
    path.write_text("mine")
    done = new(kind, "mine", "-C", str(conf))
    assert done.exit_code == 2 and "it was not changed" in done.output
    assert path.read_text() == "mine"


@pytest.mark.parametrize(("kind", "node"), [("bundle", ""), ("experiment", ""), ("preset", "userbuffers")])
def test_the_header_names_a_schema_beside_the_file_that_takes_it(conf: Path, kind: str, node: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    file, beside = map(Path, new(kind, "mine", "-C", str(conf)).stdout.split())
    description, _, header, *_ = [line for line in file.read_text().splitlines() if not line.startswith("# @package")]
    assert description.startswith("# mine: ") and header == "# yaml-language-server: $schema=schema.json"
    assert beside == file.with_name("schema.json") and json.loads(beside.read_text()) == schema(node)
    assert jsonschema.Draft7Validator(schema(node)).is_valid(yaml.safe_load(file.read_text()))
    beside.write_text("{}")
    assert new(kind, "other", "-C", str(conf)).stdout.strip() == str(file.with_name("other.yaml"))
    assert beside.read_text() == "{}"


def said(command: str) -> dict:
    """What the command that `new` prints finds in the plan that it accepts."""
    done = CliRunner().invoke(main, [*shlex.split(command)[1:], "--json"])
    answer = json.loads(done.stdout)
    assert done.exit_code == 0 and answer["verdict"] == "accepted", done.output
    return answer["result"]


@each(
    "kind, start",
    [
        ("bundle", "tp4_h100"),
        *(("app", name) for name in ("default", "dp", "tp8_h100", "none")),
        *(("experiment", name) for name in ("llama3_8b_8gpu_h100_bf16", "llama3_70b_64gpu_h100_bf16", "qwen3_30b_a3b_16gpu_h100_bf16")),
        *(("preset", name) for name in ("bf16_h100_h8192_tp4_mbs1_seq8192", "fp8_h100_h8192_tp4_mbs1_seq8192")),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_written_is_accepted_by_the_command_that_is_printed(conf: Path, kind: str, start: str) -> None:
    assert_accepted_as_it_is_written(conf, kind, start)


@pytest.mark.slow
@each("start", option_files.options("comm_overlap"))
def test_a_copy_of_any_bundle_is_accepted_by_the_command_that_is_printed(conf: Path, start: str) -> None:
    assert_accepted_as_it_is_written(conf, "bundle", start)


def assert_accepted_as_it_is_written(conf: Path, kind: str, start: str) -> None:
    done = new(kind, f"my_{start}", "--from", start, "-C", str(conf))
    assert done.exit_code == 0, done.output
    answer = said(done.stderr.partition("To check it:")[2].strip())
    if kind in ("bundle", "experiment"):
        group = FOLDERS[kind]
        shipped = said(f"hydra-overlap check {group}={start}")
        assert {k: v for k, v in answer.items() if k in EFFECTIVE} == {k: shipped[k] for k in EFFECTIVE}


def test_every_line_of_a_bundle_that_is_a_comment_works_when_it_is_none(conf: Path) -> None:
    file = Path(new("bundle", "mine", "-C", str(conf), "--from", "tp4_h100").stdout.splitlines()[0])
    text = file.read_text()
    lines = re.findall(r"^  # - override .*$", text, re.MULTILINE)
    assert len(lines) == 3
    for line in lines:
        file.write_text(text.replace(line, line.replace("# - ", "- ", 1)))
        assert composed(conf, "+comm_overlap=mine").transformer_config["tp_comm_overlap"] is True, line
    values = text[text.index("# comm_overlap:") :]
    file.write_text(text.replace(values, values.replace("# ", "", 1).replace("\n# ", "\n").replace("#   ", "  ")))
    assert yaml.safe_load(file.read_text())["comm_overlap"] == {"dp": {"bucket_size": None}}
    assert composed(conf, "+comm_overlap=mine").transformer_config["tp_comm_overlap"] is True
    file.write_text(
        text.replace(
            "  # - override /overlap/parallelism: tp4 ", "  - override /parallelism@_global_.parallelism: tp4 "
        )
    )
    assert said(f"hydra-overlap check -C {conf} comm_overlap=mine")["transformer_config"]["tp_comm_overlap"] is True


def test_a_new_app_runs_and_is_refused(tmp_path: Path) -> None:
    assert new("app", "mine", "-C", str(tmp_path)).exit_code == 0
    app = tmp_path / "mine" / "app.py"
    ran = warm.run([app], cwd=tmp_path)
    assert ran.returncode == 0 and "overlap_grad_reduce=True" in ran.stdout, ran.stderr
    refused = warm.run([app, "parallelism.tensor_model_parallel_size=3"], cwd=tmp_path)
    assert refused.returncode == 1 and "\nerror PAR001  " in refused.stderr and "Traceback" not in refused.stderr


def test_a_place_that_cannot_be_written_is_a_usage_error(conf: Path) -> None:
    (conf / "comm_overlap").write_text("")
    done = new("bundle", "mine", "-C", str(conf))
    assert done.exit_code == 2 and "cannot be written" in " ".join(done.output.split())


@pytest.mark.parametrize("name", ["null", "Null", "true", "off", "yes", "on", "No", "nan", "inf", "123"])
def test_a_name_that_is_read_as_another_value_is_refused_with_a_way_out(conf: Path, name: str) -> None:
    done = new("bundle", name, "-C", str(conf))
    assert done.exit_code == 2 and f"Say my_{name}." in " ".join(done.output.split())
    assert new("bundle", f"my_{name}", "-C", str(conf)).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("bundle", "../x"), "not a valid option name"),
        (("bundle", "tp4_h100"), "shipped with hydra-overlap"),
        (("bundle", "mine", "--from", "tp4_h10"), "Did you mean tp4_h100?"),
    ],
)
def test_what_cannot_be_written_is_a_usage_error(conf: Path, arguments: tuple[str, ...], said: str) -> None:
    done = new(*arguments, "-C", str(conf))
    assert done.exit_code == 2 and said in " ".join(done.output.split())
    assert sorted(path.name for path in conf.rglob("*.yaml")) == ["host.yaml"]


def test_a_directory_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    assert new("bundle", "mine", "-C", str(tmp_path / "absent")).exit_code == 2

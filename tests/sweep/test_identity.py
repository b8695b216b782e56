"""Points are the same if their runs would be, and not otherwise."""

from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig

from hydra_overlap.schema.fields import TREE
from hydra_overlap.schema.targets import DDP_FIELDS, OPTIMIZER_FIELDS
from hydra_overlap.sweep.composer import Composer
from hydra_overlap.sweep.identity import LEFT_OUT, identity
from tests.sweep.conftest import Sweeps, started

HOST = """
defaults: [_self_]
seed: 1
steps: 10
out: runs/${hydra:job.num}
name: ${hydra.job.override_dirname}
logger: {dir: '${out}/logs', every: '${steps}', started: '${now:%H-%M-%S}'}
files: ['${out}/a', b]
whole: ${logger}
"""


def known(composer: Composer, *overrides: str) -> str:
    return identity(*composer.judge(list(overrides)))


@pytest.fixture(scope="module")
def ours() -> Composer:
    """Composes points of our own app."""
    with started(None, "config", ()) as composer:
        return composer


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("comm_overlap=default",), ("comm_overlap=dp",)),
        (("comm_overlap.dp.overlap_grad_reduce=true",), ("comm_overlap.dp.overlap_grad_reduce=null",)),
        (("parallelism=tp2",), ("parallelism=tp2", "parallelism.world_size=2")),
        (("model.name=a",), ("model.name=b",)),
        (("checkpoint.save=a",), ("checkpoint.save=b", "checkpoint.keep=5")),
        (("launch.max_ranks=4",), ("launch.max_ranks=8",)),
        (("training.log_interval=7",), ("training.log_interval=3",)),
        (("data.cache_dir=/a",), ("data.cache_dir=/b/${hydra:job.num}",)),
        (("data.max_bytes=1", "data.cache_dir=/a"), ("data.max_bytes=1", "data.cache_dir=${hydra:job.num}")),
        (("hydra.job.name=a",), ("hydra.job.name=b",)),
        (("training.seed=32",), ("training.seed=${training.global_batch_size}",)),
    ],
)  # fmt: skip
def test_points_of_the_same_run_are_the_same(ours: Composer, one: tuple[str, ...], other: tuple[str, ...]) -> None:
    assert known(ours, *one) == known(ours, *other)


@pytest.mark.parametrize(
    "change",
    [
        "comm_overlap.dp.bucket_size=51200", "comm_overlap=none", "parallelism=dp4", "training.seed=7", "training.train_iters=7",
        "optimizer.lr=0.1", "data=mock", "data.max_bytes=1000", "checkpoint.load=/somewhere", "precision=fp16", "model.num_layers=8",
        "training.eval_iters=3", "launch.dry_run=true", "platform=h100", "software.torch=2.6.0",
        "ddp.check_for_nan_in_grad=true", "training.micro_batch_size=2", "data={kind:text,files:['${hydra:job.num}',x]}",
    ],
)  # fmt: skip
def test_points_of_another_run_are_not_the_same(ours: Composer, change: str) -> None:
    assert known(ours, change) != known(ours)


def test_userbuffers_count_by_what_they_hold_and_only_where_they_are_on(ours: Composer) -> None:
    on = ("comm_overlap=tp4_h100", "model=llama3_8b")
    off = (*on, "comm_overlap.tp.tp_comm_overlap=false")
    changed = "++userbuffers.layers.qkv_fprop.num_sm=2"
    assert known(ours, *on) != known(ours, *on, changed)
    assert known(ours, *off) == known(ours, *off, changed)
    assert known(ours, *on) == known(ours, *on, "userbuffers.name=mine", "userbuffers.tuned_for.hidden_size=1")


def test_what_is_left_out_exists() -> None:
    overlap_fields = {*DDP_FIELDS, *OPTIMIZER_FIELDS}  # not all of them are base fields as well
    left = {f"{node}.{name}" for node, names in LEFT_OUT.items() for name in names if name not in overlap_fields}
    assert left <= {f"{node}.{name}" for node in LEFT_OUT for name in TREE[node]}


@pytest.fixture
def host(tmp_path: Path) -> Path:
    (tmp_path / "host.yaml").write_text(HOST)
    return tmp_path


def test_an_app_without_our_nodes_is_known_by_its_config(sweep: Sweeps, host: Path) -> None:
    composer = sweep(config_dir=host, config_name="host")
    assert composer.judge([])[1] is None
    assert known(composer) == known(composer, "seed=1") == known(composer, "hydra.job.name=x")
    assert (
        len({known(composer, change) for change in ("seed=2", "steps=11", "+extra=1", "~seed", "files=[]", "out=x")})
        == 6
    )
    assert known(composer, "logger.every=10") == known(composer)  # ${steps} is 10


def test_the_number_and_folder_of_a_job_and_the_time_tell_no_points_apart(
    sweep: Sweeps, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    composer = sweep(config_dir=host, config_name="host")
    before = known(composer, "steps=3")
    config = composer.compose(["steps=3"])
    config.hydra.job.num = 7
    HydraConfig.instance().set_config(config)
    try:
        assert known(composer, "steps=3") == before
    finally:
        HydraConfig.instance().cfg = None
    assert known(composer, "steps=3", "seed=1") == before  # another hydra.job.override_dirname


def test_identities_hold_across_processes() -> None:
    """A resumed sweep knows its points again: the hash is of text, in a fixed order, without addresses or times."""
    import subprocess
    import sys

    script = (
        "from tests.sweep.conftest import started\n"
        "from hydra_overlap.machine import local\n"
        "from hydra_overlap.sweep.identity import identity\n"
        "local.gpu_names = lambda: ()\n"
        "with started(None, 'config', ()) as c: print(identity(*c.judge(['comm_overlap=tp4_h100'])))"
    )
    root = Path(__file__).parents[2]
    runs = [
        subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert runs[0].stdout == runs[1].stdout != ""

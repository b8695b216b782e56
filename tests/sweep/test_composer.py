"""A point's config is the one Hydra composes: types, flags, texts of errors, Hydra's own node, and all."""

from pathlib import Path
from random import Random

import hydra
import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from hydra_overlap.compose import enforce as composition
from hydra_overlap.sweep.composer import Composer
from tests.compose.commands import APPS
from tests.sweep.conftest import Sweeps
from tests.sweep.random_points import draw
from tests.sweep.same_config import Outcome, outcome

LIGHTNING = Path(__file__).parents[2] / "examples" / "lightning_style" / "configs"


def theirs(composer: Composer, overrides: list[str]) -> Outcome:
    """What Hydra's own `load_sweep_config` makes of a point."""
    with composition.as_point():
        return outcome(lambda: composer._loader.load_sweep_config(composer._master, list(overrides)))


def assert_the_same(composer: Composer, overrides: list[str]) -> str:
    """Both ways of composing agree, and so does judging; -> how Hydra's ends."""
    expected = theirs(composer, overrides)
    assert outcome(lambda: composer.compose(overrides)) == expected, overrides
    judged = outcome(lambda: composer.judge(overrides)[0])
    if "CFG006" in str(judged[2]):  # Hydra composes what its start of the job then refuses
        assert composer.compose(overrides).overlap.plan is None
    else:
        assert judged[0] == expected[0], overrides
        assert expected[0] == "config" or judged == expected, overrides
    return expected[0]


def assert_all_the_same(composer: Composer, points: list[list[str]]) -> None:
    ends = [assert_the_same(composer, overrides) for overrides in points]
    assert min(ends.count("config"), ends.count("error")) > len(ends) // 5  # both are put to the test


def test_random_points_compose_as_hydra_composes_them(sweep: Sweeps) -> None:
    random = Random(20)
    composer = sweep("comm_overlap=none,dp", "hydra.run.dir=somewhere")
    assert_all_the_same(composer, [draw(random) for _ in range(30)])


@pytest.mark.slow
def test_more_random_points_compose_as_hydra_composes_them(sweep: Sweeps) -> None:
    random = Random(5)
    composer = sweep("model=tiny,llama3_8b", "hydra.job.name=given", "hydra.job.config.override_dirname.item_sep=_")
    assert_all_the_same(composer, [draw(random) for _ in range(60)])


@pytest.mark.parametrize(
    ("folder", "name", "lines"),
    [
        (APPS / "foreign_conf", "plain", ("+comm_overlap=tp4_h100", "+comm_overlap=none", "parallelism=tp1", "optimizer.lr=3", "model.depth=${model.hidden_size}", "~optimizer", "+x={y:1}", "model.hidden_size=4096", "hydra.job.env_copy=[HOME]", "nothing=1")),
        (LIGHTNING, "train", ("experiment=tp4", "parallelism=tp8", "model.net.n_heads=6", "model.net.n_heads=8", "~trainer", "+comm_overlap=dp", "task_name=${oc.env:HOME}", "hydra.job.env_copy=[HOME]", "paths.output_dir=x")),
    ],
    ids=["foreign", "lightning"],
)  # fmt: skip
def test_points_of_other_peoples_apps_compose_as_hydra_composes_them(
    sweep: Sweeps, folder: Path, name: str, lines: tuple[str, ...]
) -> None:
    random = Random(2)
    composer = sweep(config_dir=folder, config_name=name)
    for _ in range(15):
        assert_the_same(composer, random.sample(lines, random.choice((0, 1, 2, 3))))


def test_a_search_path_of_one_point_is_searched_for_that_point(sweep: Sweeps, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\ntraining: {train_iters: 13}\n")
    composer = sweep()
    found = [f"hydra.searchpath=[{tmp_path}]", "experiment=mine"]
    assert assert_the_same(composer, found) == "config"
    assert assert_the_same(composer, ["experiment=mine"]) == "error"


def test_the_config_of_one_point_leaves_nothing_in_the_next(sweep: Sweeps) -> None:
    composer = sweep()
    before = outcome(lambda: composer.compose(["training.seed=1"]))
    for lines in (["+extra=1"], ["training.seed=5", "~data"], ["comm_overlap.dp={bucket_size:51200}"], ["training=x"]):
        outcome(lambda lines=lines: composer.compose(lines))
        outcome(lambda lines=lines: composer.judge(lines)[0])
    assert outcome(lambda: composer.compose(["training.seed=1"])) == before


def test_the_answer_of_judging_is_the_one_written_into_the_config(sweep: Sweeps) -> None:
    composer = sweep()
    lines = ["comm_overlap=tp4_h100", "model.num_layers=8"]
    answer = composer.judge(lines)[1]
    written = OmegaConf.to_container(composer.compose(lines).overlap, resolve=True)
    assert answer.resolution.transformer_config == written["effective"]["transformer_config"]
    assert answer.resolution.env == written["env"]


def test_points_are_merged_once_for_each_set_of_choices(sweep: Sweeps, monkeypatch: pytest.MonkeyPatch) -> None:
    composer = sweep()
    built = []
    build = composer._bases.build
    monkeypatch.setattr(composer._bases, "build", lambda key: built.append(key) or build(key))
    for choice in ("none", "dp", "none"):
        for seed in range(5):
            composer.judge([f"comm_overlap={choice}", f"training.seed={seed}"])
    assert built == [("comm_overlap=none",), ("comm_overlap=dp",)]


def test_a_loader_of_another_hydra_composes_by_itself(sweep: Sweeps, monkeypatch: pytest.MonkeyPatch) -> None:
    composer = sweep()
    calls = []

    class NewLoader(ConfigLoaderImpl):
        def load_sweep_config(self, *arguments, **keywords):
            calls.append(arguments)
            return super().load_sweep_config(*arguments, **keywords)

    composer._loader.__class__ = NewLoader
    other = Composer(composer._loader, composer._master)
    assert other.judge(["comm_overlap=dp"])[1].resolution.ddp_config["overlap_grad_reduce"] is True
    with pytest.raises(ConfigCompositionException) as error:
        other.judge(["comm_overlap=tp4_h100", "parallelism=tp1"])
    assert composition.refusal_in(error.value) is not None
    assert len(calls) == 2
    composer._loader.__class__ = ConfigLoaderImpl
    monkeypatch.setattr(hydra, "__version__", "1.4.0")
    assert Composer(composer._loader, composer._master)._bases is None

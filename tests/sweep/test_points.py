"""The points of a sweep: BasicSweeper's own where it has them, and what it has none of."""

import itertools
import tracemalloc

import pytest
from hydra._internal.core_plugins import basic_sweeper  # Hydra executes the module again when it looks for plugins
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException

from hydra_overlap.sweep.errors import SweepError
from hydra_overlap.sweep.points import points
from tests.sweep.conftest import Sweeps


def overrides(*arguments: str, **settings) -> list[list[str]]:
    return [list(point.overrides) for point in points(arguments, **settings)]


def refusal(*arguments: str, **settings) -> str:
    with pytest.raises(SweepError) as error:
        points(arguments, **settings)
    return str(error.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ("a=1,2", "b=x,y", "c=3"),
        ("a=choice(1,2,x)", "+b=true,false", "++c=1.0,1e-3"),
        ("a=range(0,5)", "b=range(0,1,0.25)", "~c"),
        ("a='x y','it\\'s',\"q\"", "b=[1,2],[3]", "c={x:1,y:{z:a}},{}"),
        ("a=caf\\ e,\\$x", "b=${c},${oc.env:HOME}", "c='${d}'"),
        ("a=1,2", "a=3", "b=4", "b=5,6"),
        ("g@p=x,y", "~d=1", "e=", "f='',null"),
        ("a=1",),
        (),
    ],
)
def test_a_grid_is_that_of_hydras_own_sweeper(arguments: tuple[str, ...]) -> None:
    parsed = OverridesParser.create().parse_overrides(list(arguments))
    (theirs,) = basic_sweeper.BasicSweeper.split_arguments(parsed, max_batch_size=None)
    assert overrides(*arguments) == theirs


def test_params_in_yaml_are_swept_and_the_command_line_wins() -> None:
    params = {"a": "1,2", "b": 7, "c": "x,y", "d": None, "e": True}
    sweeper = basic_sweeper.BasicSweeper(max_batch_size=None, params=params)
    parser = OverridesParser.create()
    lines = [*sweeper._parse_config(), "c=z", "f=1,2"]
    (theirs,) = basic_sweeper.BasicSweeper.split_arguments(parser.parse_overrides(lines), max_batch_size=None)
    ours = overrides("c=z", "f=1,2", params=params)
    assert [[line.replace("d=null", "d=None") for line in point] for point in ours] == theirs  # a YAML null is a null
    assert ours[0] == ["a=1", "b=7", "c=z", "d=null", "e=True", "f=1"]


def test_a_glob_takes_the_options_there_are(sweep: Sweeps) -> None:
    loader = sweep()._loader
    assert overrides("comm_overlap=glob(tp4*,exclude=*gb200)", config_loader=loader) == [
        ["comm_overlap=tp4_a100"], ["comm_overlap=tp4_b200"], ["comm_overlap=tp4_b200_fp8"], ["comm_overlap=tp4_h100"],
        ["comm_overlap=tp4_h100_fp8"],
    ]  # fmt: skip
    assert "glob(zz*) gives no value" in refusal("comm_overlap=glob(zz*)", config_loader=loader)


def test_a_point_knows_its_number_and_what_was_swept_in_order() -> None:
    grid = points(["b=1,2", "fixed=0", "a=x,y"])
    assert grid.swept == ("b", "a")
    assert [point.swept for point in grid] == [{"b": b, "a": a} for b, a in itertools.product("12", "xy")]
    assert [point.number for point in grid] == [0, 1, 2, 3]
    assert grid[2].overrides == ("b=2", "fixed=0", "a=x")


def test_without_a_swept_key_there_is_one_point() -> None:
    grid = points(["a=1"])
    assert (len(grid), grid.swept, grid[0].overrides) == (1, (), ("a=1",))


def test_zipped_keys_advance_together() -> None:
    assert overrides("a=1,2,3", "b=x,y", "+c=p,q,r", zipped=[["a", "c"]]) == [
        [f"a={a}", f"b={b}", f"+c={c}"] for (a, c), b in itertools.product(zip("123", "pqr", strict=True), "xy")
    ]


@pytest.mark.parametrize(
    ("zipped", "said"),
    [
        ([["a", "b"]], "a: 3 values"),
        ([["a", "d"]], "d has no list of values"),
        ([["a", "comm_overlup"]], "Did you mean comm_overlap?"),
        ([["a", "c"], ["c", "comm_overlap"]], "c is in two of the lists"),
        (["a", "c"], "hydra.sweeper.zip=[[a,c]]"),
    ],
)
def test_keys_that_cannot_advance_together_are_refused(zipped: list, said: str) -> None:
    text = refusal("a=1,2,3", "b=1,2", "c=1,2,3", "d=1", "comm_overlap=x,y,z", zipped=zipped)
    assert said in text and text.startswith("This sweep cannot start; nothing was started.")


def test_named_points_bring_their_overrides_and_multiply_with_what_is_swept() -> None:
    named = {"baseline": ["comm_overlap=none"], "tp4": ["comm_overlap=tp4_h100", "+note='a b'"]}
    grid = points(["seed=1,2", "steps=5"], named=named)
    assert [(point.name, list(point.overrides)) for point in grid] == [
        ("baseline", ["comm_overlap=none", "seed=1", "steps=5"]),
        ("baseline", ["comm_overlap=none", "seed=2", "steps=5"]),
        ("tp4", ["comm_overlap=tp4_h100", "+note='a b'", "seed=1", "steps=5"]),
        ("tp4", ["comm_overlap=tp4_h100", "+note='a b'", "seed=2", "steps=5"]),
    ]
    assert grid[2].swept == {"comm_overlap": "tp4_h100", "+note": "'a b'", "seed": "1"}


def test_the_command_line_wins_over_a_named_point() -> None:
    assert overrides("a=9", named={"x": ["a=1", "b=2"], "y": ["b=3"]}) == [["a=9", "b=2"], ["a=9", "b=3"]]


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({"x": []}, "hydra.sweeper.points.x"),
        ({"x": "a=1"}, "A named point is a list of at least one override"),
        ({"x": ["a=1,2"]}, "A named point is one job"),
        ({"x": ["hydra/launcher=joblib"]}, "hydra.launcher.KEY"),
        ({"x": ["hydra.sweep.dir=elsewhere"]}, "hydra.sweep.dir cannot differ between points"),
    ],
)
def test_a_named_point_that_is_none_is_refused(named: dict, said: str) -> None:
    assert said in refusal(named=named)


def test_a_launcher_is_not_swept_but_its_settings_are() -> None:
    assert "one launcher" in refusal(params={"hydra/launcher": "basic,joblib"})
    assert overrides(params={"hydra.launcher.n_jobs": "1,2"}) == [
        ["hydra.launcher.n_jobs=1"],
        ["hydra.launcher.n_jobs=2"],
    ]


def test_an_interval_is_refused_with_what_to_write() -> None:
    assert "a=range(START,STOP,STEP)" in refusal("a=interval(0,1)")


def test_an_override_that_cannot_be_read_is_hydras_error() -> None:
    with pytest.raises(OverrideParseException):
        points(["a=[1"])


def test_a_sample_is_the_same_for_a_seed_and_in_order() -> None:
    lines = ("a=range(0,100)", "b=range(0,100)")
    some = overrides(*lines, sample=20, seed=3)
    assert some == overrides(*lines, sample=20, seed=3) != overrides(*lines, sample=20, seed=4)
    whole = overrides(*lines)
    places = [whole.index(point) for point in some]
    assert places == sorted(set(places)) and len(places) == 20
    drawn = points(lines, sample=20)
    assert [point.number for point in drawn] == list(range(20)) and drawn.whole == 10_000
    assert overrides("a=1,2", sample=5) == [["a=1"], ["a=2"]]
    assert "null runs all" in refusal("a=1,2", sample=0)


def test_a_million_points_cost_no_memory() -> None:
    tracemalloc.start()
    grid = points([f"{key}=range(0,10)" for key in "abcdef"])
    assert len(grid) == 1_000_000 and grid[999_999].overrides[0] == "a=9"
    for point in itertools.islice(grid, 5000):
        assert len(point.overrides) == 6
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6

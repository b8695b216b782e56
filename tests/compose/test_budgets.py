"""Option files and overrides that are no text, contain themselves, or stand for more than can be expanded: a sentence, exit code 2."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hydra_overlap import check
from hydra_overlap.cli import main
from hydra_overlap.compose import budgets
from hydra_overlap.compose.check import Primary, Verdict
from hydra_overlap.compose.unreadable import UnreadableError
from tests.each import each

SEED_SIZE = "name: tiny\nnum_layers: 2\n"


def bomb(width: int, levels: int) -> str:
    lines = [f"a0: &a0 [{','.join('x' * width)}]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return "\n".join(lines)


DOUBLING = "\n".join(
    ["name: ${.a0}", *(f"a{n}: '${{.a{n + 1}}}${{.a{n + 1}}}'" for n in range(30)), "a30: x"]
)  # of a node of an app, too
FILES: dict[str, tuple[bytes, str]] = {
    "latin": ("name: caf\u00e9\n".encode("latin-1"), "not UTF-8"),
    "utf16": (SEED_SIZE.encode("utf-16"), "UTF-16"),
    "invalid": (b"# \xc3\x28\n", "not UTF-8"),
    "itself": (b"name: &a [*a]\n", "contains itself"),
    "itself_in_a_mapping": (b"name: &a {b: {c: *a}}\n", "contains itself"),
    "laughs": (bomb(9, 9).encode(), "too large"),
    "laughs_of_mappings": (b"a: &a {b: 1, c: 2}\n" + "\n".join(
        f"a{n}: &a{n} {{b: *a{n - 1 or ''}, c: *a{n - 1 or ''}, d: *a{n - 1 or ''}}}" for n in range(1, 20)).encode(), "too large"),
    "long_list": (f"name: [{','.join(['x'] * 500_000)}]\n".encode(), "too large"),
    "deep": (f"name: {'[' * 100_000}{']' * 100_000}\n".encode(), "FILE"),
    "deep_blocks": ("\n".join(f"{' ' * n}a:" for n in range(200)).encode(), "too deep"),
    "chooses_itself": (b"defaults: [chooses_itself]\n", "circle"),
    "chooses_another": (b"defaults: [chooses_back]\n", "circle"),
    "chooses_back": (b"defaults: [chooses_another]\n", "circle"),
    "doubling": (DOUBLING.encode(), "expand without end"),
    "not_an_integer": (b"num_layers: !!int x\n", "int"),
    "endless_integer": (b"num_layers: " + b"9" * 5000, "digits"),
    "no_date": (b"name: 2023-02-31\n", "model.num_layers"),
    "superscript": ("num_layers: \u00b2\n".encode(), "model.num_layers"),
    "nul": (b'name: "a\0b"\n', "x0000"),
    "python": (b'name: !!python/object/apply:os.system ["touch PWNED"]\n', "YAML"),
}  # fmt: skip
CODE_1 = ("not_an_integer", "endless_integer", "no_date", "superscript", "nul", "python")


@pytest.fixture
def judged(tmp_path: Path) -> Callable[[bytes], Verdict]:
    folder = tmp_path / "conf" / "model"
    folder.mkdir(parents=True)
    for name, (content, _) in FILES.items():
        (folder / f"{name}.yaml").write_bytes(content)

    def answer(name: str, *overrides: str) -> Verdict:
        return check([f"model={name}", *overrides], primary=Primary(folder=folder.parent))

    return answer  # type: ignore[return-value]


def text(verdict: Verdict) -> str:
    return f"{verdict.headline} {verdict.findings}"


def test_a_file_that_cannot_be_read_is_told_in_a_sentence(judged: Callable[[str], Verdict]) -> None:
    for name, (_, words) in FILES.items():
        verdict = judged(name)
        assert verdict.exit_code == (1 if name in CODE_1 else 2), (name, text(verdict))
        assert words in text(verdict), (name, text(verdict))
        assert len(verdict.findings) == 1 or name in CODE_1, name


def test_a_file_that_doubles_in_its_defaults_list_is_counted(tmp_path: Path) -> None:
    folder = tmp_path / "conf" / "model"
    folder.mkdir(parents=True)
    for n in range(30):
        (folder / f"d{n}.yaml").write_text(f"defaults: [d{n + 1}@a, d{n + 1}@b]\n")
    (folder / "d30.yaml").write_text(SEED_SIZE)
    verdict = check(["model=d0"], primary=Primary(folder=folder.parent))
    assert verdict.exit_code == 2 and "too many entries" in text(verdict)


@each("word", ["model.name=" + "[" * 2000, f"model.name=[{','.join('x' * 50_000)}]", "data.files=" + "{a:" * 500])
def test_an_override_that_is_too_long_or_too_deep_is_told_in_a_sentence(word: str) -> None:
    verdict = check([word])
    assert verdict.exit_code == 2 and "too long" in text(verdict)


@each("place", ["fifo", "folder", "proc", "sparse", "absent", "locked"])
def test_only_regular_files_of_a_size_that_can_be_read_are_read(
    place: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("place") / "file.yaml"
    if place == "fifo":
        os.mkfifo(file)
    elif place == "folder":
        file.mkdir()
    elif place == "proc":
        file.symlink_to("/proc/self/status")
    elif place == "sparse":
        with file.open("wb") as stream:
            stream.truncate(3 * 2**30)
    elif place == "locked":
        file.symlink_to(file)
    with pytest.raises(UnreadableError):
        budgets.nodes_of(file)


@each("width, levels", [(1, 1), (3, 2), (5, 3), (9, 4)])
def test_nodes_are_counted_as_yaml_expands_them(
    width: int, levels: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("count") / "file.yaml"
    file.write_text(bomb(width, levels))
    assert budgets.nodes_of(file) == _nodes(yaml.safe_load(file.read_text()))


def _nodes(value: object) -> int:
    if isinstance(value, dict):
        return 1 + sum(1 + _nodes(item) for item in value.values())
    return 1 + sum(map(_nodes, value)) if isinstance(value, list) else 1


def test_json_tells_an_unreadable_file_as_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "conf" / "model"
    folder.mkdir(parents=True)
    (folder / "latin.yaml").write_bytes(FILES["latin"][0])
    done = CliRunner().invoke(main, ["check", "-C", str(folder.parent), "model=latin", "--json"])
    assert done.exit_code == 2 and '"usage error"' in done.output and "UTF-8" in done.output


# Fuzz: whatever stands in an option file or an override, the answer is a verdict, never an exception. The seed is fixed (conftest.py).
SCALARS = st.one_of(
    st.text(max_size=12), st.integers(), st.floats(), st.booleans(), st.none(),
    st.sampled_from(["${model.name}", "${oc.env:HOME}", "${", "???", "2023-02-31", "\u00b2", "1e400", "0x", "!!int x", "${hydra:job.num}", "x\ny"]),
)  # fmt: skip
KEYS = st.one_of(
    st.sampled_from(
        ["num_layers", "hidden_size", "name", "defaults", "activation_func", "num_moe_experts", "_target_"]
    ),
    st.text(max_size=5),
)
NODES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=6
)
RAW = st.one_of(
    st.dictionaries(KEYS, NODES, max_size=5).map(lambda made: yaml.safe_dump(made, allow_unicode=True).encode("utf-8", "surrogatepass")),
    st.binary(max_size=80),
    st.text("ab:- \n[]{}&*!|>'\"#%@,?${}.", max_size=60).map(str.encode),
)  # fmt: skip
OVERRIDE = st.one_of(
    st.tuples(st.sampled_from(["model.num_layers", "model", "+x", "~model", "data.files", "hydra.run.dir", "comm_overlap", "model.name"]), SCALARS).map(
        lambda pair: f"{pair[0]}={pair[1]}"
    ),
    st.text(max_size=20),
    st.text("=~+@/.[]{}(),:'\"$\\ a1", max_size=20),
)  # fmt: skip
FUZZ = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@FUZZ
@given(content=RAW)
def test_whatever_stands_in_an_option_file_the_answer_is_a_verdict(content: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "conf" / "model"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "drawn.yaml").write_bytes(content)
    assert check(["model=drawn"], primary=Primary(folder=folder.parent)).exit_code in (0, 1, 2)


@FUZZ
@given(words=st.lists(OVERRIDE, max_size=2))
def test_whatever_is_typed_the_answer_is_a_verdict(words: list[str]) -> None:
    assert check(words).exit_code in (0, 1, 2)

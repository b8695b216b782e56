"""What a host app imports from `hydra_overlap` itself, and the old names that still answer."""

import subprocess
import sys

import pytest

import hydra_overlap


@pytest.mark.parametrize("name", hydra_overlap.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(hydra_overlap, name) is not None
    assert name in dir(hydra_overlap)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'judge'"):
        hydra_overlap.judge  # noqa: B018


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, hydra_overlap; print(sorted({'torch', 'megatron', 'hydra', 'omegaconf', 'yaml'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["judged", "refusal_in"])
def test_the_old_path_of_a_name_warns_and_answers(name: str) -> None:
    from hydra_overlap import compose

    with pytest.warns(DeprecationWarning, match=f"from hydra_overlap import {name}"):
        assert getattr(compose, name) is getattr(hydra_overlap, name)


def test_the_old_path_of_run_app_warns_and_runs() -> None:
    from hydra_overlap.app import cli

    ran: list[str] = []
    with pytest.warns(DeprecationWarning, match="from hydra_overlap import run_app"):
        cli(lambda: ran.append("main"))
    assert ran == ["main"]

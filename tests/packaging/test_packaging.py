"""What is installed carries the option files and the plugin, whichever way: shown by an unrelated app in a clean venv."""

import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OPTION_FILES = {path.relative_to(ROOT).as_posix() for path in (ROOT / "conf").rglob("*.yaml")}
PLUGIN = "hydra_plugins/hydra_overlap_plugin/searchpath.py"

UNRELATED_APP = """
import hydra

@hydra.main(version_base=None, config_path=None)
def main(cfg):
    print("TASK RAN", cfg.parallelism.tensor_model_parallel_size, cfg.overlap.env)

main()
"""

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("packaging")]  # one worker builds and installs


def sh(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True, timeout=900)


def ok(*command: str | Path, cwd: Path) -> str:
    done = sh(*command, cwd=cwd)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what git would hand out, so that nothing built lies about in the repository."""
    copy = tmp_path_factory.mktemp("sources") / "hydra-overlap"
    copy.mkdir()
    listed = ok("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines()
    for name in listed:
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    return copy


@pytest.fixture(scope="module")
def built(sources: Path) -> tuple[Path, Path]:
    """The sdist, and the wheel that is built from it."""
    ok(sys.executable, "-m", "build", "--outdir", "dist", ".", cwd=sources)
    (sdist,) = (sources / "dist").glob("*.tar.gz")
    (wheel,) = (sources / "dist").glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, built: tuple[Path, Path]) -> Path:
    """A clean virtual environment without this one's packages, but for what the wheel brings; -> its python."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    ok(python, "-m", "pip", "install", "-q", built[1], cwd=folder)
    return python


def assert_an_unrelated_app_is_enforced(python: Path, folder: Path) -> None:
    (folder / "app.py").write_text(UNRELATED_APP)
    ran = sh(python, "app.py", "+comm_overlap=tp4_h100", cwd=folder)
    assert ran.stdout == "TASK RAN 4 {'CUDA_DEVICE_MAX_CONNECTIONS': '1'}\n", ran.stderr
    refused = sh(python, "app.py", "+comm_overlap=tp4_h100", "overlap/parallelism=tp1", cwd=folder)
    assert refused.returncode == 1
    assert "\nerror TP001  " in refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_wheel_holds_every_option_file_and_the_plugin(built: tuple[Path, Path]) -> None:
    names = set(zipfile.ZipFile(built[1]).namelist())
    assert {f"hydra_overlap/{name}" for name in OPTION_FILES} <= names
    assert PLUGIN in names
    assert "hydra_plugins/__init__.py" not in names  # other projects share the namespace


def test_the_sdist_holds_every_option_file_and_the_plugin(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= OPTION_FILES
    assert {PLUGIN, "conf/__init__.py", "pyproject.toml", "LICENSE"} <= names


def test_the_bare_install_brings_no_torch(environment: Path, tmp_path: Path) -> None:
    installed = ok(environment, "-m", "pip", "list", "--format=freeze", cwd=tmp_path).lower()
    assert "hydra-core==1." in installed
    assert "torch" not in installed
    assert "megatron" not in installed


def test_the_bare_install_composes_for_training_and_names_what_training_needs(
    environment: Path, tmp_path: Path
) -> None:
    command = environment.with_name("hydra-overlap")
    assert "comm_overlap:" in ok(command, "train", "comm_overlap=tp4_h100", "--cfg", "job", cwd=tmp_path)
    refused = sh(command, "train", cwd=tmp_path)
    assert refused.returncode == 1 and "Traceback" not in refused.stderr
    assert "pip install einops 'torch>=2.6' 'megatron-core<0.20,>=0.16'" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == []


@pytest.mark.parametrize("kind", ["wheel", "sdist", "editable"])
def test_an_unrelated_app_composes_and_is_refused(
    built: tuple[Path, Path], sources: Path, environment: Path, tmp_path: Path, kind: str
) -> None:
    """The wheel is built from the sdist; installing the sdist builds one anew. What it depends on is there already."""
    what = {"sdist": [built[0]], "wheel": [built[1]], "editable": ["-e", sources]}[kind]
    install = ("-m", "pip", "install", "-q", "--force-reinstall", "--no-deps")
    ok(environment, *install, *what, cwd=tmp_path)
    assert_an_unrelated_app_is_enforced(environment, tmp_path)

"""Directories of checkpoints are looked at before anything starts."""

import pytest

from hydra_overlap import LaunchError
from hydra_overlap.launch.checkpoint_folders import require_checkpoint_folders
from hydra_overlap.launch.checkpoint_names import STATE, complete
from tests.plans import plan_of


@pytest.fixture
def used(tmp_path):
    """A directory with one complete checkpoint."""
    folder = tmp_path / "used" / "iter_0000004"
    folder.mkdir(parents=True)
    (folder / STATE).write_text('{"step": 4}')
    return folder.parent


def look(*overrides):
    require_checkpoint_folders(plan_of(*overrides))


def test_only_whole_folders_count_as_checkpoints(used):
    (used / "iter_0000006.partial").mkdir()
    (used / "iter_0000006.partial" / STATE).write_text("{}")
    (used / "iter_0000008").mkdir()
    assert [path.name for path in complete(used)] == ["iter_0000004"]


def test_refuses_to_save_among_the_checkpoints_of_another_run(used):
    with pytest.raises(LaunchError, match="of another run") as refusal:
        look(f"checkpoint.save={used}")
    assert f"checkpoint.load={used}" in str(refusal.value)


def test_allows_to_go_on_from_them_or_to_save_elsewhere(used, tmp_path):
    look(f"checkpoint.save={used}", f"checkpoint.load={used}")
    look(f"checkpoint.save={tmp_path}/new", f"checkpoint.load={used}")


def test_a_first_start_may_name_the_directory_it_will_resume_from(tmp_path):
    look(f"checkpoint.save={tmp_path}/new", f"checkpoint.load={tmp_path}/new")


def test_refuses_to_resume_from_nothing(tmp_path):
    with pytest.raises(LaunchError, match=r"No complete checkpoint in checkpoint\.load"):
        look(f"checkpoint.load={tmp_path}/typo")


def test_refuses_a_directory_that_cannot_be_written_before_the_first_step(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LaunchError, match=r"checkpoint\.save cannot be written"):
        look(f"checkpoint.save={tmp_path}/file/x")


def test_refuses_a_newest_checkpoint_that_lacks_its_manifest_before_anything_starts_unless_an_older_one_will_do(used):
    (used / "iter_0000008").mkdir()
    with pytest.raises(LaunchError, match=r"checkpoint\.load is damaged") as refusal:
        look(f"checkpoint.load={used}")
    assert "manifest.json is missing" in str(refusal.value) and "checkpoint.on_damage=older" in str(refusal.value)
    look(f"checkpoint.load={used}", "checkpoint.on_damage=older")


def test_copies_under_other_names_are_no_checkpoints_and_steps_are_numbers(used):
    for name in ("iter_0000004_bak", "iter_0000009.0a1b.damaged", "iter_12", "iter_10000000"):
        (used / name).mkdir()
        (used / name / STATE).write_text("{}")
    assert [path.name for path in complete(used)] == ["iter_0000004", "iter_10000000"]


@pytest.mark.parametrize("key", ["save", "load"])
def test_a_name_that_is_too_long_for_the_system_is_refused_in_a_sentence(key):
    with pytest.raises(LaunchError, match="A folder of checkpoints cannot be read") as refused:
        look(f"checkpoint.{key}={'x' * 5000}")
    assert "File name too long." in str(refused.value) and f"checkpoint.{key}=ANOTHER" in str(refused.value)

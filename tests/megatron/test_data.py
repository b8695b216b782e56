"""Tokens on disk: written once, whole or not at all, the same for every layout."""

import threading

import numpy
import pytest

from hydra_overlap import LaunchError
from hydra_overlap.launch import text_files
from hydra_overlap.megatron import data
from tests import needs
from tests.plans import plan_of

pytestmark = needs.IN_PROCESS


@pytest.fixture
def texts(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"hello " * 100)
    (tmp_path / "b.txt").write_bytes("grüße".encode())
    (tmp_path / "empty.txt").write_bytes(b"")
    return tmp_path


def text_plan(folder, *overrides):
    return plan_of("data=text", f"data.files=['{folder}/*.txt']", f"data.cache_dir={folder}/cache", *overrides)


def read(prefix):
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    return [numpy.array(document) for document in IndexedDataset(prefix)]


def test_writes_bytes_and_an_end_of_document_per_file(texts):
    first, second = read(data.prepare(text_plan(texts)))
    assert bytes(first[:-1].astype(numpy.uint8)) == b"hello " * 100
    assert bytes(second[:-1].astype(numpy.uint8)).decode() == "grüße"
    assert first[-1] == second[-1] == data.EOD


def test_writes_the_same_text_once(texts, monkeypatch):
    prefix = data.prepare(text_plan(texts))
    monkeypatch.setattr(data, "_write", None)  # a second writing would call it
    assert data.prepare(text_plan(texts)) == prefix


def test_other_text_lies_elsewhere(texts):
    before = data.prepare(text_plan(texts))
    (texts / "b.txt").write_text("changed")
    assert data.prepare(text_plan(texts)) != before


def test_max_bytes_cuts_the_text(texts):
    (document,) = read(data.prepare(text_plan(texts, "data.max_bytes=300")))
    assert len(document) == 301


def test_an_interrupted_writing_leaves_nothing_behind(texts, monkeypatch):
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    def interrupted(self, path):
        raise OSError("No space left on device")

    monkeypatch.setattr(IndexedDatasetBuilder, "finalize", interrupted)
    with pytest.raises(LaunchError, match="cannot be stored") as refusal:
        data.prepare(text_plan(texts))
    assert "No space left" in str(refusal.value)
    assert list((texts / "cache").iterdir()) == []


def test_two_runs_may_write_the_same_text_at_once(texts):
    plan, prefixes = text_plan(texts), []
    threads = [threading.Thread(target=lambda: prefixes.append(data.prepare(plan))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(prefixes)) == 1 and len(prefixes) == 4
    assert len(list((texts / "cache").iterdir())) == 1


def test_the_standard_library_is_text_enough():
    files = text_files.sources(plan_of())
    assert len(files) > 300
    assert not any("site-packages" in str(file) or "/test/" in str(file) for file in files)


@pytest.mark.parametrize(
    ("overrides", "title"),
    [
        (("data=text", "data.files=['missing/*.txt']"), "A data file does not exist"),
        ((f"data.cache_dir={__file__}",), "The tokenised text cannot be stored"),
        ((f"data.cache_dir={__file__}/below",), "The tokenised text cannot be stored"),
    ],
    ids=["missing", "a file", "below a file"],
)
def test_refuses_what_it_cannot_read_with_a_way_out(overrides, title):
    with pytest.raises(LaunchError, match=title) as refusal:
        text_files.require(plan_of(*overrides))
    assert refusal.value.finding.fixes


def fixes_of(plan):
    with pytest.raises(LaunchError, match="too short for one sample") as refusal:
        data.prepare(plan)
    return [fix.override for fix in refusal.value.finding.fixes]


def test_refuses_a_text_shorter_than_one_sample_with_fixes_that_change_something(texts):
    here, there = (f"data.cache_dir={texts}/cache", "model.seq_length=4096"), ("data=stdlib data.files=[]",)
    found = fixes_of(text_plan(texts, here[1]))
    assert found[0].startswith("model.seq_length=") and found[1:] == [*there]
    assert fixes_of(text_plan(texts, here[1], "data.max_bytes=1000"))[1:] == ["data.max_bytes=null", *there]
    assert fixes_of(plan_of(*here, "data.max_bytes=1000"))[1:] == ["data.max_bytes=null"]  # stdlib already
    empty = texts / "empty.txt"
    empty.write_bytes(b"")
    assert fixes_of(plan_of("data=text", f"data.files=[{empty}]", here[0])) == [*there]


def test_mock_data_needs_no_file():
    assert data.prepare(plan_of("data=mock")) is None

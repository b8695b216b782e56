"""hydra_overlap/files.py: files that are whole at every moment."""

import json
import os
import threading

import pytest

from hydra_overlap import files


def test_a_file_that_cannot_be_written_keeps_its_old_content_and_leaves_nothing_beside_it(tmp_path):
    path = files.write_json(tmp_path / "result.json", {"old": True})
    with pytest.raises(ValueError, match="Out of range float values"):
        files.write_json(path, {"loss": float("nan")})
    with pytest.raises(TypeError):
        files.write_text(path, b"no text")  # type: ignore[arg-type]  # fails when the draft is open
    assert files.read_json(path) == {"old": True}
    assert [one.name for one in tmp_path.iterdir()] == ["result.json"]


def test_readers_never_see_half_a_file_that_several_threads_write(tmp_path):
    path = tmp_path / "sign.json"
    contents = [{"rank": rank, "place": ["frame"] * 20_000} for rank in range(3)]
    files.write_json(path, contents[0])
    ended = threading.Event()

    def write(content):
        while not ended.is_set():
            files.write_json(path, content)

    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    for writer in writers:
        writer.start()
    try:
        for _ in range(50):
            assert json.loads(path.read_text()) in contents
    finally:
        ended.set()
        for writer in writers:
            writer.join()
    assert [one.name for one in tmp_path.iterdir()] == ["sign.json"]


def test_a_new_file_has_the_permissions_of_any_new_file(tmp_path):
    before = os.umask(0o027)
    try:
        path = files.write_text(tmp_path / "report.html", "text")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640


def test_infinity_is_written_where_it_is_allowed_and_read_back(tmp_path):
    path = files.write_json(tmp_path / "plan.json", {"clip_grad": float("inf")}, allow_nan=True)
    assert files.read_json(path) == {"clip_grad": float("inf")}


def test_what_is_not_there_or_no_object_reads_as_empty(tmp_path):
    assert files.read_json(tmp_path / "absent.json") == {}
    for text in ("", "[1]", '{"half": '):
        files.write_text(tmp_path / "it.json", text)
        assert files.read_json(tmp_path / "it.json") == {}

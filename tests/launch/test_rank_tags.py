"""Lines of several ranks in one place tell whose they are."""

import io
import sys

from hydra_overlap.launch import rank_tags


def test_every_line_has_the_tag_however_it_is_written():
    under = io.StringIO()
    stream = rank_tags.Tagged(under, "[rank 3] ")
    for part in ("one\ntwo", " goes on\n", "", "[rank3]: torch's own\n", "three\n"):
        stream.write(part)
    assert under.getvalue() == "[rank 3] one\n[rank 3] two goes on\n[rank3]: torch's own\n[rank 3] three\n"


def test_rank_0_reports_untagged_and_errs_tagged(monkeypatch):
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    rank_tags.tag(0)
    print("report")
    print("warning", file=sys.stderr)
    assert (out.getvalue(), err.getvalue()) == ("report\n", "[rank 0] warning\n")

"""Texts that mean something else in some language: each tries to make the file PWNED, or to end its place."""

import subprocess
from pathlib import Path

ONE_LINE = (
    "$(touch PWNED)", "`touch PWNED`", "'; touch PWNED; '", '"; touch PWNED; "', "x; touch PWNED", "x | touch PWNED", "x\\", "!x", "~ *",
    "'''+open('PWNED','w').write('')+'''", '"""', "{{ 7*7 }}", "%(x)s", "#", "- a: b", "!!python/name:os.system", "[/x]", "[bold red]x",
    ":smile:", "<script>touch()</script>", "</code><img src=x onerror=touch()>", "&lt;b&gt;", "\"onmouseover=\"touch()", "$x$", "$\\frac{$",
    "\u00a0", "\u4e16\u754c", "\u202etouch",
)  # fmt: skip
SEVERAL_LINES = (
    "x\ntouch PWNED\n#", "x\rtouch PWNED\r#", "x\u2028touch PWNED\u2028#", "x\u2029touch", "x\u0085touch PWNED", "x\x0btouch", "x\x0ctouch",
    "x\x1b]0;title\x07", "\x7f", "\x9b31m", "x\udcfftouch", "x\ud800touch",
)  # fmt: skip
NUL = "x\0touch PWNED"
ALL = (*ONE_LINE, *SEVERAL_LINES, NUL)


def bash(folder: Path, script: str) -> bytes:
    """What a script prints, run by bash in a folder; fails if it fails, complains, or makes the file PWNED."""
    file = folder / "script.sh"
    file.write_text(script, encoding="utf-8")
    done = subprocess.run(["bash", str(file)], cwd=folder, capture_output=True, check=True)
    assert done.stderr == b"" and not (folder / "PWNED").exists(), done.stderr
    return done.stdout

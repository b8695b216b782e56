"""A shell script is read as bash reads it, as far as it is followed, and nothing of it runs."""

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hydra_overlap.audit import shell
from tests.each import each

SAME = [  # scripts whose words bash knows without running a program
    "show a 'b c' \"d e\" f\\ g",
    "show --a=1 --b \\\n  --c\\\n2",
    "# a comment \\\nA=1\nshow $A",
    "show 'a # b' \"c # d\" e#f # g 'h",
    'echo "it\'s" >/dev/null\nshow "x # y" \'z\'',
    "A='x  y'\nshow $A \"$A\" ${A} a$A\"b\"$A",
    "A=' x '\nshow a${A}b a\"$A\"b",
    "A=\nshow $A a \"$A\"",
    "A=(1 '2 3' # four\n 5)\nA+=(6)\nshow ${A[@]} \"${A[@]}\" \"x${A[@]}y\" \"${A[*]}\" $A",
    'A=()\nshow "${A[@]}" ${A[@]} end',
    "A=1; A+=2\nA+=' 3'\nshow $A \"$A\"",
    "show ${NONE:-a b} \"${NONE:-a b}\" ${NONE-x} ${NONE:-${ALSO:-y}}",
    "A=\nshow ${A:-x} ${A-y} ${A:+z} ${A+w} end",
    ": ${A:=7}\nshow $A",
    "A=1\nA=2 true\nshow $A",
    "export A=1 B='2 3'\ndeclare -a C=(4 5)\nshow $A \"$B\" ${C[@]}",
    "f() {\n local A='1 2'\n show $A\n}\nf",
    "A=1\nunset A\nshow x$A",
    "cat <<EOF >/dev/null\ndon't show this\nEOF\nshow a",
    "cat <<'E F' >/dev/null\n$( \" '\nE F\nshow a",
    "cat <<-EOF >/dev/null\n\tshow b'\n\tEOF\nshow a",
    "A=1\nread -r -d '' B <<EOF\nx $A \"y\" \\$A\nEOF\nshow $B",
    "A=1\nB=$(cat <<EOF\n$A 'b\nEOF\n)\nshow \"$B\"",
    "show a; show b 2>&1 >/dev/stdout | cat",
    "if true; then show b; fi\nshow c",
    "show $'a\\tb\\'c' $\"d\"",
    "show \"a\\$b\\\"c\\\\d\\e\" '\\n'",
    "A=a\nshow \"$A\"'$A'\\$A",
    "(show a)\n{ show b; }",
    "[[ a < b && ( c > d || -n x ) ]] && show a",
    "((1 < 2)) && show a",
    "case x in\n x|z) show b ;;\nesac\nshow c",
    "CMD=\"show a \\\n 'b c'\"\neval $CMD\n$CMD",
    'CMD="show \'a  b\' c"\neval "$CMD"',
    "A=1 B=$A\nshow $B",
    "show a;show b\nshow c &&\\\nshow d &&\n show e",
    "show a >&1 2>/dev/null 7<&-",
    "for A in 1; do show b; done; while true; do show c; break; done",
    "function f { show a; }; f; ! show b\nshow c",
    "show <<<'x' a",
    "show a < <(echo x) b",
    "show a\\\\ 'b\\' # c\\\nshow d",
    "A='$B'\nB=1\nshow $A \"$A\"",
    "A=(--x \"y z\")\nB=\"${A[*]} w\"\nC=\"${A[@]}\"\nshow $B \"$C\"",
]  # fmt: skip


def ours(script: str) -> list[list[str]]:
    return [command.words[1:] for command in shell.read(script).commands if command.words[0] == "show"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@each("script", SAME)
def test_words_are_those_of_bash(script: str) -> None:
    functions = "show() { printf '%s\\0' \"$@\"; printf '\\n\\0'; }\n"
    done = subprocess.run(
        ["bash", "-c", functions + script], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"}, check=True
    )
    theirs = [block.split("\0")[:-1] for block in done.stdout.split("\n\0")[:-1]]
    assert ours(script) == theirs


def last(script: str) -> shell.Command:
    return shell.read(script).commands[-1]


def test_what_a_command_would_print_is_not_known_and_keeps_its_dollar() -> None:
    script = "A=$(date +'%s')\nB=`id`\nx $A $B $(f (a) ')' b) $((1 + (2))) $1 ${2} \"$@\" ${C} ${C:?no} ${#A} ${A%.*}"
    assert last(script).words[1:] == [
        "$(...)", "$(...)", "$(...)", "$((...))", "$1", "${2}", "$@", "${C}", "${C:?no}", "${#A}", "${A%.*}",
    ]  # fmt: skip


def test_variables_set_under_conditions_and_in_loops_are_named_with_their_lines() -> None:
    script = 'A=0\nif f; then A=1; fi\n[ $A -gt 0 ] &&\n  B=2\nfor C in 1 2; do\nD=3\ndone\nE="$A $B"\nf || F=4\nx $E $C $D $F'
    command = last(script)
    assert command.words == ["x", "1", "2", "$C", "3", "4"]
    assert command.branches == {"A": 2, "B": 4, "C": 5, "D": 6, "F": 9}
    assert last("if f; then A=1; fi\nA=2\nx $A").branches == {}
    assert last("cd x && A=1\nx $A").branches == {}  # whether it can be entered decides more than A


def test_a_command_under_a_condition_says_so() -> None:
    commands = shell.read("if f; then\nx\nelse\ny\nfi\nz\n[ a ] || {\n w\n}\nv").commands
    assert {command.words[0]: command.inside for command in commands if command.words[0] in "xyzwv"} == {
        "x": 1, "y": 1, "z": None, "w": 7, "v": None,
    }  # fmt: skip


def test_lines_are_those_of_the_file() -> None:
    script = "A='\n\n'\nx \\\n a\nsbatch <<EOF\n# b\npython b.py\nEOF\n\ny"
    assert [(command.words[-1], command.line) for command in shell.read(script).commands] == [
        ("a", 4), ("sbatch", 6), ("b.py", 8), ("y", 11),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "script",
    [
        'srun -N 4 bash -c "cd x; python a.py --b $C"',
        "sbatch -N 4 --wrap='python a.py --b 1'",
        'CMD="python a.py\n --b 1"\nsrun -N 4 sh -c "$CMD"',
        "sbatch -N 4 <<'EOF'\n#!/bin/bash\nC=1\npython a.py --b $C\nEOF",
        'CMD="cd x; python a.py --b 1"\nsbatch -N 4 <<EOF\nsrun bash -c "${CMD}" > \\${ID}.log\nEOF',
    ],
)
def test_scripts_in_words_and_in_documents_are_read_too(script: str) -> None:
    inner = next(command for command in shell.read(script).commands if "a.py" in command.words)
    assert inner.words[-2:] in (["--b", "1"], ["--b", "$C"]) or inner.words[-1] == "a.py"
    assert inner.outer[:3] in (("srun", "-N", "4"), ("sbatch", "-N", "4"))


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("x\n'a", "line 2: a quote"),
        ('x "a\n\n', "line 1: a quote"),
        ("A=(1\n2", "line 1: a bracket"),
        ("x $(y", "line 1: a bracket"),
        ("x ${y", "line 1: a bracket"),
        ("x $'y", "line 1: a quote"),
        ("x `y", "line 1: a quote"),
        ("A=xxxxxxxx\n" + "A=$A$A\n" * 64, "A becomes longer|a word becomes longer"),
        ("A=(x x)\n" + 'A=("${A[@]}" "${A[@]}")\n' * 64, "A becomes longer"),
        ("x " + "${A:-" * 5000, "nested too deeply|never closed"),
        ("x " + "$(y " * 5000, "nested too deeply|never closed"),
    ],
)
def test_what_is_broken_or_has_no_bounds_is_refused(script: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shell.read(script)


def test_a_text_that_runs_itself_ends() -> None:
    shell.read('A=\'eval "$A" "$A"; python a.py\'\neval "$A"')


def test_nothing_is_executed(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    touch = f"touch {mark}"
    shell.read(f"{touch}\nA=$({touch})\n`{touch}`\n<({touch})\neval '{touch}'\nx <<EOF\n$({touch}) .py\nEOF\n")
    assert not mark.exists()


@given(st.text(alphabet="$(){}[]'\"`\\ \n#<>&|;:=-+@*AB.py", max_size=60))
@settings(max_examples=1500, deadline=None)
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        script = shell.read(text)
    except ValueError:
        return
    assert all(command.words for command in script.commands)

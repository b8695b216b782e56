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
    script = "A=$(date +'%s')\nB=`id`\nx $A $B $(f ')' b) $((1 + C)) $1 ${2} \"$@\" ${D} ${D:?no} ${#D} ${A%.*}"
    command = last(script)
    assert command.words[1:] == [
        "$(date +'%s')", "$(id)", "$(f ')' b)", "$((1 + C))", "$1", "${2}", "$@", "${D}", "${D:?no}", "${#D}", "${A%.*}",
    ]  # fmt: skip
    assert not any(word.known for word in command.words[1:]) and command.words[0].known


def test_a_command_is_there_once_for_each_way_that_a_condition_may_turn_out() -> None:
    script = 'SP=""\nif [ "$MODE" = big ]; then\n  TP=8\n  SP=--sp\nelse\n  TP=2\nfi\nx --tp $TP $SP'
    commands = shell.read(script).commands
    assert [(command.words, command.ways) for command in commands] == [
        (["x", "--tp", "8", "--sp"], ("the condition on line 2 holds",)),
        (["x", "--tp", "2"], ("no condition on line 2 holds",)),
    ]
    assert len({command.group for command in commands}) == 1
    assert [
        command.words for command in shell.read(script, shell.Around(environment=(("MODE", "small"),))).commands
    ] == [["x", "--tp", "2"]]


@each(
    "script",
    [
        ("A=4\nif [ $A -gt 1 ]; then B=1; else B=0; fi\nx $B", ["1"]),
        ("A=4\nif [[ $A == 4* && -n $A ]]; then B=1; elif f; then B=2; fi\nx $B", ["1"]),
        ("case 7B in 1B|7B) B=1 ;; *) B=2 ;; esac\nx $B", ["1"]),
        ("A=3\nwhile [ $A -gt 0 ]; do A=$((A - 1)); done\nx $A", ["0"]),
        ("f() { B=$1; local C=5; return 0; }\nf 3 && x $B", ["3"]),
        ("A=(a b c)\nA[1]=z\nx ${A[1]} ${#A[@]} ${A[-1]} ${A[@]:1}", ["z", "3", "c", "z", "c"]),
        ("declare -A M=([a]=1 [b]=2)\nK=b\nx ${M[$K]}", ["2"]),
        ("A=7 B=2\nx $((A / B)) $((A % B)) $((A > B ? A : B)) $((-A / B)) $(expr $A + $B)", ["3", "1", "7", "-3", "9"]),
        ("A=a/b.c.d\nx ${A##*/} ${A%.*} ${A%%.*} ${A/b/z} ${A^^} ${A:2:3}", ["b.c.d", "a/b.c", "a/b", "a/z.c.d", "A/B.C.D", "b.c"]),
        ("A=$(echo 3)\nx $A $(basename /a/b) $(seq 3)", ["3", "b", "1", "2", "3"]),
        ("if [ 1 = 1 ]; then x a; exit 0; fi\nx b", ["a"]),
        ("if [ -z '' -a 1 -lt 2 ] && ! [ 1 = 2 ]; then x a; fi", ["a"]),
    ],
)  # fmt: skip
def test_what_the_text_decides_is_decided_as_bash_decides_it(script: tuple[str, list[str]]) -> None:
    assert [command.words[1:] for command in shell.read(script[0]).commands if command.words[0] == "x"] == [script[1]]


def test_a_default_is_taken_and_said() -> None:
    command = last("N=${NODES:-2}\nx --n $((N * 4)) ${1:-a}")
    assert command.words == ["x", "--n", "8", "a"] and command.defaults == {"NODES": "2", "$1": "a"}
    assert "by default: $1=a, NODES=2" in shell.conditions(command)[0]
    said = shell.read(
        "N=${NODES:-2}\nx $N ${1:-a}", shell.Around(arguments=("b",), environment=(("NODES", "3"),))
    ).commands[-1]
    assert said.words == ["x", "3", "b"] and said.defaults == {}


def test_a_word_that_may_be_several_says_so_and_whether_it_surely_holds_something() -> None:
    words = last('x $EXTRA "$EXTRA" "$@" "${A[@]}" $(cat f)').words[1:]
    assert [(word.open, word.filled) for word in words] == [
        ("$EXTRA", False), ("", False), ("$@", False), ("${A[@]}", False), ("$(cat f)", True),
    ]  # fmt: skip
    after = last('source other/file.sh\nx "${A[@]}"')
    assert after.words[1].filled and after.unread == "other/file.sh, sourced on line 1"


def test_sibling_files_are_read_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.sh").write_text("A=(--x 1)\n")
    (tmp_path / "outside.sh").write_text("A=(--y 1)\n")
    ways = (
        "source model.sh",
        '. "$(dirname "$0")/model.sh"',
        'D=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)\nsource "$D/model.sh"',
    )
    for way in ways:
        found = shell.read(way + '\nx "${A[@]}"', shell.Around(tmp_path / "run")).commands[-1]
        assert found.words == ["x", "--x", "1"], way
    for path in ("../outside.sh", str(tmp_path / "outside.sh"), "absent.sh", "."):
        assert shell.read(f'source {path}\nx "${{A[@]}}"', shell.Around(tmp_path / "run")).commands[-1].words[1].filled


def test_flags_that_a_comment_or_a_blank_cuts_off_are_named_with_the_reason() -> None:
    command = last("x a.py \\\n  --a \\\n  # --b \\\n  --c \\\n  --d\n")
    assert command.words == ["x", "a.py", "--a"]
    assert command.cut is not None and command.cut.line == 4 and command.cut.words == ("--c", "--d")
    assert command.cut.why == "the comment on line 3 ends it"
    blank = last("x a.py --a \\ \n  --c 1\n")
    assert blank.cut is not None and "line 1 does not end with a backslash" in blank.cut.why
    assert last("x a.py --a\n\n\n--c").cut is None


def test_a_command_under_a_condition_that_is_not_decided_says_so() -> None:
    commands = shell.read("if f; then\nx\nelse\ny\nfi\nz\n[ $a ] || {\n w\n}\nv").commands
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
        ("x\n'a", "line . cannot be read"),
        ('x "a\n\n', "line 1 cannot be read"),
        ("A=(1\n2", "cannot be read"),
        ("x $(y", "cannot be read"),
        ("x ${y", "line 1 cannot be read"),
        ("x $'y", "line 1 cannot be read"),
        ("x `y", "cannot be read"),
        ("A=xxxxxxxx\n" + "A=$A$A\n" * 64, "becomes longer"),
        ("A=(x x)\n" + 'A=("${A[@]}" "${A[@]}")\n' * 64, "becomes longer|too many words"),
        ("x " + "${A:-" * 5000, "nested too deeply|cannot be read"),
        ("x " + "$(y " * 5000, "nested too deeply|cannot be read"),
        ("x " + "a" * 3_000_000, "longer than 2 MB"),
        ("for a in 1 2 3 4 5 6 7 8; do " * 12 + "x; " + "done; " * 12, "too many words|more than"),
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

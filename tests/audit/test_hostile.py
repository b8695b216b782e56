"""Files made to break an audit end in a sentence, within bounds; none ends in a traceback."""

import time
from pathlib import Path

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from hydra_overlap.audit import UnreadableError, audit, source

TRAIN = "torchrun --nproc-per-node 8 pretrain_gpt.py "
BRIDGE = "train: {micro_batch_size: 1}\n"
SECONDS = 60  # a bound that only an explosion breaks, on a busy machine too

BOMBS = {
    "many flags": TRAIN + " ".join(f"--flag{number} {number}" for number in range(20_000)),
    "one flag often": TRAIN + "--num-layers 8 " * 20_000,
    "arrays of arrays": "A=(1 2 3 4)\n" + 'A=("${A[@]}" "${A[@]}" "${A[@]}")\n' * 30 + TRAIN + "--bf16 ${A[@]}",
    "empty words": TRAIN + "--bf16 " + "'' " * 300_000,
    "one long list": BRIDGE + "model:\n  x: [" + "1," * 500_000 + "1]\n",
    "doubling interpolations": BRIDGE
    + "model:\n  a0: xxxxxxxx\n"
    + "".join(f"  a{n + 1}: ${{model.a{n}}}${{model.a{n}}}\n" for n in range(40)),
    "a billion laughs": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(9)),
    "brackets in brackets": "a: " + "[" * 100_000,
    "an anchor that names itself": "model: &a {x: *a, hidden_size: 64}\n",
    "prose": "hello world\n" * 300_000,
    "one long line": "x " * 2_000_000,
}
SCALARS = (
    "!!int x",
    "2024-02-31",
    "1" * 5000,
    "\u00b2",
    "!!float y",
    "!!binary z",
    ".inf",
    "!!timestamp t",
    "0x",
    "1e999",
)


def said(text: str) -> str:
    """The verdict, or the sentence that there is none."""
    try:
        return str(audit(text))
    except UnreadableError as error:
        return str(error)


@pytest.mark.parametrize("name", BOMBS)
def test_a_text_that_grows_without_end_is_read_within_bounds(name: str) -> None:
    begin = time.process_time()
    assert said(BOMBS[name])
    assert time.process_time() - begin < SECONDS


@pytest.mark.parametrize("scalar", SCALARS)
def test_a_value_that_cannot_be_is_a_text(scalar: str) -> None:
    for text in (
        f"model: {{hidden_size: {scalar}}}\n{BRIDGE}",
        f"trainer: {{devices: {scalar}}}\nmodel: {{optim: {{name: x}}, hidden_size: {scalar}}}\n",
        f"export WORLD_SIZE='{scalar}' NVTE_FWD_LAYERNORM_SM_MARGIN='{scalar}'\n{TRAIN}--num-layers '{scalar}'",
        f"torchrun --nnodes '{scalar}' --nproc-per-node '{scalar}' pretrain_gpt.py --num-layers 8 --micro-batch-size '{scalar}'",
    ):
        assert said(text)


def test_what_is_no_text_file_is_named(tmp_path: Path) -> None:
    latin, wide, sparse = tmp_path / "latin.yaml", tmp_path / "wide.yaml", tmp_path / "sparse.sh"
    latin.write_bytes("model: {} # \u00e9".encode("latin-1"))
    wide.write_bytes("model: {}".encode("utf-16"))
    with sparse.open("wb") as file:
        file.truncate(3 << 30)
    for name, said in (
        (str(latin), "UTF-8: line 1 has the byte 0xe9"),
        (str(wide), "UTF-16"),
        (str(sparse), "longer than 10 MB"),
        (str(tmp_path), "not a regular file"),
        ("/proc/self/status", "not a regular file"),
        ("/dev/null", "not a regular file"),
        (str(tmp_path / "absent"), "There is no file"),
        ("x" * 300, "cannot be read"),
        ("a\0b", "NUL character"),
    ):
        with pytest.raises(UnreadableError, match=said):
            source.read(name)


def test_a_trainer_that_is_no_mapping_is_passed_over() -> None:
    assert audit("trainer: 3\nmodel: {optim: {name: x}, hidden_size: 64}\n")


PIECES = st.sampled_from(
    ["model: ", "train: ", "comm_overlap: ", "{", "}", "[", "]", "&a ", "*a ", "!!int ", "${", "${model.x}", "- ", "\n", "  ", "x",
     "1", "true", "null", ": ", "tp_comm_overlap", "hidden_size", "'", '"', "#", "trainer: ", "optim", "MODEL_ARGS:", "--bf16",
     "system:", "modules:", "\u00b2"]
)  # fmt: skip
WORDS = st.sampled_from(
    ["torchrun ", "pretrain_gpt.py ", "--num-layers ", "--tp-comm-overlap ", "--num-layers-per-virtual-pipeline-stage ", "0 ", "8 ",
     "-1 ", "$A ", "${A[@]} ", "A=(", ")", "A+=", "if [ ", "]; ", "then ", "fi\n", "$(", "`", '"', "'", "\\\n", "# c", "\n", "case ",
     " in ", ";;", "esac", "for ", "do ", "done ", "$((", "))", "<<E\n", "E\n", "&& ", "|| ", "{ ", "} ", "--nproc-per-node ",
     "export ", "WORLD_SIZE=", "\u00b2", "${X:-", "}", "--pipeline-model-parallel-size "]
)  # fmt: skip


@seed(20261201)
@settings(max_examples=250, deadline=None, database=None)
@given(st.one_of(st.lists(PIECES, max_size=40), st.lists(WORDS, max_size=40)))
def test_any_text_gets_a_verdict_or_a_sentence(pieces: list[str]) -> None:
    assert said("".join(pieces))

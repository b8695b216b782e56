"""The same weights and samples in every layout, overlaps on and off: do the losses agree? Writes docs/rehearsal.md's table.

    python benchmarks/parity.py                       run every row; minutes
    python benchmarks/parity.py --only "TP 2" --only MoE   run the rows whose name contains one of these, keep the others
    python benchmarks/parity.py --table               no run: write the table again from docs/rehearsal_parity.json

Every row is a `python train.py OVERRIDES` with real megatron-core on gloo. Compared are the losses of all steps: with
those of one rank (TOLERANCE of the number format), and with the row that `off` names, where an overlap is all that
differs: equal to the last bit, unless the row says which sum takes another order. Exit code 1 if a row fails or differs.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "rehearsal_parity.json"
PAGE = ROOT / "docs" / "rehearsal.md"
BEGIN, END = "<!-- parity: begin, written by benchmarks/parity.py -->", "<!-- parity: end -->"
STEPS = 5
TIME_LIMIT_S = 600  # eight ranks on two cores take about one
COMMON = ("training=smoke", "data.max_bytes=1000000", f"training.train_iters={STEPS}")
# Largest relative difference of a step's loss from one rank's. fp32: some twenty times its spacing (1.2e-7). bf16 has 8
# bits of significand: its spacing is 7.8e-3, and the mean over 2,048 tokens is far better than one value.
TOLERANCE = {"fp32": 2e-6, "bf16": 2e-3}

MOE = ("model.num_moe_experts=4", "model.moe_token_dispatcher_type=alltoall", "model.moe_ffn_hidden_size=128")
SHARED = (*MOE, "model.moe_shared_expert_intermediate_size=128")
EIGHT = (
    "parallelism=tp2_pp2", "parallelism.virtual_pipeline_model_parallel_size=2", "parallelism.world_size=8",
)  # fmt: skip
NO_PP, NO_DP, NO_EP = "comm_overlap/pp=none", "comm_overlap/dp=none", "comm_overlap/ep=none"


@dataclass(frozen=True)
class Model:
    """What a group of rows trains. numbers: format of parameters; gradients are summed in fp32 in all of them."""

    name: str
    numbers: str
    overrides: tuple[str, ...] = ()

    @property
    def tolerance(self) -> float:
        """Largest relative difference from one rank that is no error."""
        return TOLERANCE[self.numbers]


@dataclass(frozen=True)
class Row:
    """One run. off: name of the row without the overlap; another_order: why equality to the last bit is not expected."""

    layout: str
    overlap: str
    overrides: tuple[str, ...]
    off: str | None = None
    another_order: str = ""

    @property
    def name(self) -> str:
        """Unique within its model."""
        return f"{self.layout}, {self.overlap}"


ONE = Row("one rank", "none", ("parallelism=tp1",))
# With parameter-gather overlap a rank's share of the gradients lies in other buckets, and the norm of all is summed in
# another order: clipping then scales by a factor that differs in its last bit. Without clipping they are equal.
NORM = "norm summed by other shares, clipped by it"
# With the shared expert overlapped its backward runs at another time (megatron-core core_v0.16.1 shared_experts.py:173), and the
# three gradients of a layer's input, from router, experts and shared expert, are summed in another order.
INPUT_GRADIENT = "gradient of a layer's input summed in another order"
DP4 = (
    Row("DP 4", "none", ("parallelism=dp4", NO_DP)),
    Row("DP 4", "grad reduce, param gather", ("parallelism=dp4",), off="DP 4, none"),
)
DP2 = (
    Row("DP 2", "none", ("parallelism=dp2", NO_DP)),
    Row("DP 2", "grad reduce, param gather", ("comm_overlap=dp",), off="DP 2, none"),
)
INTERLEAVED = (
    Row("PP 2, VPP 2", "none", ("parallelism=pp2_vpp2", NO_PP)),
    Row("PP 2, VPP 2", "p2p", ("comm_overlap=pp_interleaved",), off="PP 2, VPP 2, none"),
)
EIGHT_RANKS = (
    Row("TP 2, PP 2, VPP 2, DP 2", "none", (*EIGHT, NO_PP, NO_DP)),
    Row(
        "TP 2, PP 2, VPP 2, DP 2", "p2p, grad reduce, aligned param gather", EIGHT, off="TP 2, PP 2, VPP 2, DP 2, none"
    ),
)
EP_OVERLAP = ("comm_overlap/ep=a2a", "software=reference")

UNCLIPPED = ("optimizer.clip_grad=0",)


def clipped(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """Rows whose data-parallel overlap leads to another order in the norm."""
    return tuple(replace(row, another_order=NORM) if row.off else row for row in rows)


TABLE: dict[Model, tuple[Row, ...]] = {
    Model("tiny GPT", "fp32"): (
        ONE, *clipped(DP2),
        Row("DP 2, replicated optimizer", "none", ("ddp=replicated", "optimizer=adam_replicated", NO_DP)),
        Row(
            "DP 2, replicated optimizer", "grad reduce", ("ddp=replicated", "optimizer=adam_replicated"),
            off="DP 2, replicated optimizer, none",
        ),
        *clipped(DP4),
        Row("TP 2", "none", ("parallelism=tp2", "parallelism.sequence_parallel=false")),
        Row("TP 2, sequence parallel", "none", ("parallelism=tp2",)),
        Row("TP 4, sequence parallel", "none", ("parallelism=tp4",)),
        Row("PP 2, 1F1B", "none", ("parallelism=pp2",)),
        Row("PP 4, 1F1B", "none", ("parallelism=pp4",)),
        *INTERLEAVED,
        Row("TP 2, DP 2", "none", ("parallelism=tp2_dp2", NO_DP)),
        Row("TP 2, DP 2", "grad reduce, param gather", ("parallelism=tp2_dp2",), off="TP 2, DP 2, none"),
        Row("TP 2, PP 2", "none", ("parallelism=tp2_pp2",)),
        Row("DP 2, PP 2, VPP 2", "none", ("parallelism=pp2_vpp2_dp2", NO_PP, NO_DP)),
        Row(
            "DP 2, PP 2, VPP 2", "p2p, grad reduce, aligned param gather", ("parallelism=pp2_vpp2_dp2",),
            off="DP 2, PP 2, VPP 2, none",
        ),
        *clipped(EIGHT_RANKS),
    ),
    Model("tiny GPT, all layers recomputed", "fp32", (
        "model.recompute_granularity=full", "model.recompute_method=uniform", "model.recompute_num_layers=1",
    )): (ONE, Row("TP 2, sequence parallel", "none", ("parallelism=tp2",)), *INTERLEAVED),
    Model("tiny GPT, tied embeddings", "fp32", ("model.share_embeddings_and_output_weights=true",)): (
        ONE, Row("PP 2, 1F1B", "none", ("parallelism=pp2",)), *INTERLEAVED,
    ),
    Model("tiny GPT, one layer of multi-token prediction", "fp32", ("model.mtp_num_layers=1",)): (
        ONE, *DP2, Row("PP 2, 1F1B", "none", ("parallelism=pp2",)),
    ),
    Model("MoE, 4 experts", "fp32", MOE): (
        ONE,
        Row("EP 2", "none", ("parallelism=ep2", NO_DP, NO_EP)),
        Row("EP 2", "grad reduce, param gather", ("parallelism=ep2", NO_EP), off="EP 2, none"),
        Row("EP 4", "none", ("parallelism=ep2", "parallelism.expert_model_parallel_size=4", NO_DP, NO_EP)),
        Row("EP 2, PP 2", "none", ("parallelism=pp2", "parallelism.expert_model_parallel_size=2", NO_DP, NO_EP)),
        Row("EP 2, TP 2", "none", (
            "parallelism=tp2", "parallelism.expert_model_parallel_size=2", "parallelism.expert_tensor_parallel_size=1",
            NO_DP, NO_EP,
        )),
    ),
    Model("MoE, 4 experts and a shared one", "fp32", SHARED): (
        ONE,
        Row("EP 2", "none", ("parallelism=ep2", NO_EP)),
        Row(
            "EP 2", "shared expert", ("parallelism=ep2", NO_EP, "model.moe_shared_expert_overlap=true"), off="EP 2, none",
            another_order=INPUT_GRADIENT,
        ),
    ),
    Model("tiny GPT, gradients not clipped", "fp32", UNCLIPPED): (ONE, *DP4),
    Model("tiny GPT, gradients not clipped", "bf16", UNCLIPPED): (ONE, *DP2),
    Model("tiny GPT", "bf16"): (ONE, *clipped(DP2), Row("TP 2, sequence parallel", "none", ("parallelism=tp2",)), *INTERLEAVED,
                                *clipped(EIGHT_RANKS)),
    Model("MoE, 4 experts", "bf16", MOE): (
        ONE,
        Row("EP 2", "none", ("parallelism=ep2", NO_EP)),
        Row("EP 2", "all-to-all", ("parallelism=ep2", *EP_OVERLAP), off="EP 2, none"),
        Row("EP 2, PP 2, VPP 2", "none", (
            "parallelism=pp2_vpp2", "parallelism.expert_model_parallel_size=2", "parallelism.world_size=4", NO_EP,
        )),
        Row("EP 2, PP 2, VPP 2", "all-to-all", (
            "parallelism=pp2_vpp2", "parallelism.expert_model_parallel_size=2", "parallelism.world_size=4", *EP_OVERLAP,
        ), off="EP 2, PP 2, VPP 2, none"),
    ),
}  # fmt: skip


def key(model: Model, row: Row) -> str:
    """Name of a row in the results."""
    return f"{model.name}, {model.numbers}: {row.name}"


def versions() -> dict[str, str]:
    """What the rows ran with."""
    named = {name: metadata.version(name) for name in ("megatron-core", "torch")}
    return {**named, "Python": platform.python_version()}


def measure(model: Model, row: Row) -> dict[str, Any]:
    """Run one row. -> its losses, gradient norms, ranks and versions. Raises RuntimeError with what a failed run said."""
    overrides = [*COMMON, f"precision={model.numbers}", *model.overrides, *row.overrides]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "train.py"), *overrides, f"hydra.run.dir={folder}/run"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIME_LIMIT_S, check=False)
        if done.returncode:
            said = f"{done.stdout}{done.stderr}exit code {done.returncode}"
            raise RuntimeError(f"python train.py {' '.join(overrides)}\n{said}")
        steps = [json.loads(line) for line in Path(folder, "run", "metrics.jsonl").read_text().splitlines()]
        manifest = json.loads(Path(folder, "run", "manifest.json").read_text())
    return {
        "overrides": [text for text in overrides if text not in COMMON],
        "ranks": len(manifest["readback"]["buckets"]),
        "losses": [step["loss"] for step in steps],
        "grad_norms": [step["grad_norm"] for step in steps],
        "versions": versions(),
    }


def difference(losses: list[float], others: list[float]) -> float:
    """Largest relative difference of two runs' losses, step by step."""
    return max(abs(a - b) / abs(b) for a, b in zip(losses, others, strict=True))


def mistakes(results: dict[str, Any]) -> list[str]:
    """What does not agree as it must, a line each; rows without a result included."""
    found = []
    for model, rows in TABLE.items():
        for row in rows:
            if key(model, row) not in results:
                found.append(f"{key(model, row)}: no result")
                continue
            losses = results[key(model, row)]["losses"]
            from_one = difference(losses, results[key(model, ONE)]["losses"])
            if len(losses) != STEPS or from_one > model.tolerance:
                found.append(f"{key(model, row)}: {from_one:.1e} from one rank's losses, allowed {model.tolerance:g}")
            if row.off and f"{model.name}, {model.numbers}: {row.off}" in results:
                off = results[f"{model.name}, {model.numbers}: {row.off}"]["losses"]
                compared = 1 if row.another_order else STEPS  # the first loss comes before any gradient
                if losses[:compared] != off[:compared]:
                    found.append(f"{key(model, row)}: {difference(losses, off):.1e} from the run without the overlap")
    return found


def table(results: dict[str, Any]) -> str:
    """The block of docs/rehearsal.md, markers included."""
    ran = sorted({json.dumps(result["versions"]) for result in results.values()})
    lines = [
        BEGIN,
        f"`python benchmarks/parity.py`, {len(results)} runs of {STEPS} steps, with "
        + "; ".join(", ".join(f"{name} {version}" for name, version in json.loads(text).items()) for text in ran)
        + ".",
    ]
    for model, rows in TABLE.items():
        lines += ["", f"**{model.name}, {model.numbers}** (tolerance {model.tolerance:g})", ""]
        lines += [
            f"| layout | ranks | overlap | loss at step {STEPS} | gradient norm | from one rank | from overlap off |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        one = results[key(model, ONE)]["losses"]
        for row in rows:
            result = results[key(model, row)]
            losses = result["losses"]
            against = ""
            if row.off:
                off = results[f"{model.name}, {model.numbers}: {row.off}"]["losses"]
                against = "equal" if losses == off else f"{difference(losses, off):.1e}; {row.another_order}"
            cells = [
                row.layout, str(result["ranks"]), row.overlap, f"{losses[-1]:.7f}", f"{result['grad_norms'][-1]:.6f}",
                "" if row is ONE else f"{difference(losses, one):.1e}", against,
            ]  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, END])


def write(results: dict[str, Any]) -> None:
    """Put the table where it stands in docs/rehearsal.md."""
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + table(results) + after)


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", metavar="TEXT", help="rows whose name contains it; may be repeated")
    parser.add_argument("--table", action="store_true", help="run nothing, write the table from the results there are")
    options = parser.parse_args()
    old = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results, failed = {}, []
    for model, rows in TABLE.items():
        for row in rows:
            name = key(model, row)
            if options.table or (options.only and not any(text in name for text in options.only)):
                results |= {name: old[name]} if name in old else {}
                continue
            try:
                results[name] = measure(model, row)
                print(f"{results[name]['losses'][-1]:.7f}  {results[name]['ranks']} ranks  {name}", flush=True)
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                failed.append(name)
                print(f"FAILED  {name}\n{error}", file=sys.stderr, flush=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    wrong = mistakes(results)
    print("\n".join(wrong), file=sys.stderr)
    if not any("no result" in line for line in wrong):
        write(results)
    return 1 if failed or wrong else 0


if __name__ == "__main__":
    sys.exit(main())

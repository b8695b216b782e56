#!/usr/bin/env bash
# What only a GPU can show, on the machine at hand: benchmarks/gpu_acceptance.sh [FOLDER]
#
# One GPU: the driver, Transformer Engine and doctor; train.py in bf16 and, from Hopper on, FP8 (delayed and current scaling);
# the first steps' losses in bf16 against the same plan rehearsed on the CPU of this machine. Two GPUs or more: the same with
# TP 2, userbuffers created over NCCL and read back, and losses with TP overlap on and off. Every check is a line in
# FOLDER/summary.json: name, passed, failed or skipped (and why). Exit code 0 if none failed, 1 if one did or there is no GPU.
#
# PYTHON: the interpreter to use (default: python3).
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
folder=$(realpath -m "${1:-outputs/gpu_acceptance/$(date +%Y-%m-%d_%H-%M-%S)}")
steps=6
# Largest relative difference of a step's loss. Initial weights of a GPU run come from CUDA's generator, those of a rehearsal
# from names: the first loss of both is that of an untrained model, ln(512) = 6.24 and a little more, within 2 %.
first_loss_tolerance=0.02
# Same weights, same samples; another order of sums and, in FP8, another number format.
fp8_tolerance=0.02
overlap_tolerance=0.002

tiny=(model=tiny training=smoke "training.train_iters=$steps" optimizer.lr_warmup_iters=1 parallelism=tp1 platform=auto
      software=auto data.max_bytes=1000000)

if ! command -v nvidia-smi > /dev/null || ! gpus=$(nvidia-smi --query-gpu=name --format=csv,noheader 2> /dev/null) ||
   [ -z "$gpus" ]; then
    echo "No GPU: nvidia-smi is not here or lists none. Nothing was checked; a rehearsal is no acceptance." >&2
    exit 1
fi
count=$(wc -l <<< "$gpus")
mkdir -p "$folder"
results=$folder/results.tsv
: > "$results"

record() {  # NAME STATE DETAIL
    printf '%s\t%s\t%s\n' "$1" "$2" "$3" >> "$results"
    printf '%-8s %s%s\n' "$2" "$1" "${3:+: $3}"
}

check() {  # NAME COMMAND...: passed if it exits with 0; its output is kept
    local name=$1 log
    shift
    log=$folder/${name// /_}.log
    if "$@" > "$log" 2>&1; then
        record "$name" passed ""
    else
        record "$name" failed "exit code $?, see $log"
        return 1
    fi
}

train() {  # NAME OVERRIDES...
    local name=$1
    shift
    check "$name" "$python" train.py "${tiny[@]}" "hydra.run.dir=$folder/${name// /_}" "$@"
}

compare() {  # NAME RUN OTHER TOLERANCE STEPS: losses of the first STEPS steps
    local name=$1
    shift
    check "$name" "$python" - "$folder/${1// /_}" "$folder/${2// /_}" "$3" "$4" << 'PYTHON' || true
import json, sys
from pathlib import Path

def losses(folder):
    return [json.loads(line)["loss"] for line in Path(folder, "metrics.jsonl").read_text().splitlines()]

one, other, allowed, steps = losses(sys.argv[1]), losses(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
assert len(one) >= steps and len(other) >= steps, (one, other)
worst = max(abs(a - b) / abs(b) for a, b in zip(one[:steps], other[:steps]))
print(f"largest relative difference {worst:.2e}, allowed {allowed:g}\n{one}\n{other}")
sys.exit(worst > allowed)
PYTHON
}

holds() {  # NAME RUN EXPRESSION: a Python expression over the run's manifest, m
    check "$1" "$python" -c '
import json, sys
m = json.load(open(sys.argv[1] + "/manifest.json"))
print(json.dumps(m["readback"], indent=1))
sys.exit(not eval(sys.argv[2]))' "$folder/${2// /_}" "$3" || true
}

hopper() {
    "$python" -c 'import sys, torch; sys.exit(torch.cuda.get_device_capability() < (8, 9))'
}

check "driver" nvidia-smi || true
check "torch sees the GPU" "$python" -c 'import torch; assert torch.cuda.is_available(); print(torch.version.cuda)' || true
check "doctor" "$python" -m hydra_overlap.cli doctor || true
te=yes
check "Transformer Engine works" "$python" -c '
import sys
from hydra_overlap import probe
found = probe.transformer_engine()
print(found)
sys.exit(found.state != "works")' || te=no

if train "bf16" precision=bf16; then
    holds "bf16 promise read back" "bf16" 'not m["rehearsal"] and m["readback"]["fields"] > 0'
    if [ $te = yes ]; then holds "bf16 uses Transformer Engine" "bf16" '"Transformer Engine" in m["readback"]["layers"]'; fi
    if train "bf16 rehearsed on the CPU" precision=bf16 platform=cpu; then
        compare "first loss is the rehearsal's" "bf16" "bf16 rehearsed on the CPU" $first_loss_tolerance 1
    fi
    if train "bf16 again" precision=bf16; then compare "bf16 repeats" "bf16 again" "bf16" $overlap_tolerance $steps; fi
fi

if [ $te = no ]; then
    record "FP8" skipped "Transformer Engine does not work here"
elif ! hopper; then
    record "FP8" skipped "needs compute capability 8.9"
else
    for recipe in fp8_delayed fp8_current; do
        if train "$recipe" "precision=$recipe"; then compare "$recipe near bf16" "$recipe" "bf16" $fp8_tolerance $steps; fi
    done
fi

if [ "$count" -lt 2 ]; then
    record "userbuffers" skipped "TP overlap needs two GPUs; Transformer Engine switches it off at TP 1"
elif [ $te = no ]; then
    record "userbuffers" skipped "Transformer Engine does not work here"
else
    tp2=(parallelism=tp2 precision=bf16)
    if train "TP 2 without overlap" "${tp2[@]}" comm_overlap.tp.tp_comm_overlap=false &&
       train "TP 2 with userbuffers over NCCL" "${tp2[@]}" comm_overlap.tp.tp_comm_overlap=true userbuffers=none; then
        holds "userbuffers promise read back" "TP 2 with userbuffers over NCCL" \
            'm["settings"]["transformer_config"]["tp_comm_overlap"] and not m["rehearsal"]'
        compare "TP overlap on and off" "TP 2 with userbuffers over NCCL" "TP 2 without overlap" $overlap_tolerance $steps
    fi
    if train "DP 2 with overlap" parallelism=dp2 precision=bf16 comm_overlap/dp=overlap &&
       train "DP 2 without overlap" parallelism=dp2 precision=bf16 comm_overlap/dp=none; then
        compare "DP overlap on and off" "DP 2 with overlap" "DP 2 without overlap" $overlap_tolerance $steps
    fi
fi

"$python" - "$results" "$folder/summary.json" "$gpus" << 'PYTHON'
import json, sys
from pathlib import Path

from hydra_overlap.run.report import installed_versions

rows = [line.split("\t") for line in Path(sys.argv[1]).read_text().splitlines()]
checks = [{"check": name, "state": state, "detail": detail} for name, state, detail in rows]
failed = sum(check["state"] == "failed" for check in checks)
summary = {"gpus": sys.argv[3].splitlines(), "versions": installed_versions(), "failed": failed, "checks": checks}
Path(sys.argv[2]).write_text(json.dumps(summary, indent=1) + "\n")
print(f"\n{len(checks)} checks, {failed} failed: {sys.argv[2]}")
sys.exit(failed > 0)
PYTHON

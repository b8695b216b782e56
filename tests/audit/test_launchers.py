"""What a command line starts: the program behind its launchers, its ranks and its variables."""

import shlex

import pytest

from hydra_overlap.audit.launchers import Launch, launch


def started(text: str, around: dict[str, str] | None = None, directives: str = "") -> Launch:
    return launch(shlex.split(text), around or {}, directives.split())


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("torchrun --nproc_per_node 8 p.py --x 1", "p.py"),
        ("torchrun --standalone --nproc-per-node=8 p.py --x 1", "p.py"),
        ("torchrun --nproc-per-node 8 -m my.train --x 1", "my.train"),
        ("/opt/bin/torchrun --nnodes 2 --rdzv_id 7 p.py --x 1", "p.py"),
        ("python -u -m torch.distributed.run --nproc-per-node 8 p.py --x 1", "p.py"),
        ("python3.11 -W ignore p.py --x 1", "p.py"),
        ("python /usr/bin/torchrun --nproc-per-node 8 p.py --x 1", "p.py"),
        ("srun -N 2 -lu --mpi pmix --container-image=x env -u B A=1 python -m p --x 1", "p"),
        ("srun -N2 --ntasks-per-node=8 --export=ALL,A=1 numactl -m 0 python p.py --x 1", "p.py"),
        ("mpirun -np 16 --mca btl tcp,self -H a,b --bind-to none -x A=1 python p.py --x 1", "p.py"),
        ("deepspeed --num_gpus 8 --hostfile h p.py --x 1", "p.py"),
        ("accelerate launch --num_processes 8 --multi_gpu p.py --x 1", "p.py"),
        ("docker run --rm -it --gpus all -v /a:/b -e A=1 img:3 torchrun --nproc-per-node 8 p.py --x 1", "p.py"),
        ("apptainer exec --nv -B /a --env A=1 img.sif python p.py --x 1", "p.py"),
        ("ray job submit --address http://a:1 -- python3 p.py --x 1", "p.py"),
        ("nsys profile -o out -t cuda torchrun --nproc-per-node 8 p.py --x 1", "p.py"),
        ("timeout -k 5 60 nohup stdbuf -o L python p.py --x 1", "p.py"),
        ("torchrun --nproc-per-node 8 --no-python numactl -C 0 python p.py --x 1", "p.py"),
    ],
)
def test_the_program_behind_the_launchers_is_found_with_its_arguments(text: str, program: str) -> None:
    found = started(text)
    assert (found.program, found.arguments, found.script) == (program, ("--x", "1"), False)


@pytest.mark.parametrize(
    ("text", "around", "directives", "ranks"),
    [
        ("torchrun p.py", {}, "", 1),
        ("torchrun --nproc-per-node 8 --nnodes 2 p.py", {}, "", 16),
        ("torchrun --nproc-per-node 8 --nnodes 2:2 p.py", {}, "", 16),
        ("torchrun --nproc-per-node 8 --nnodes 1:4 p.py", {}, "", None),
        ("torchrun --nproc-per-node gpu p.py", {}, "", None),
        ("torchrun p.py", {"PET_NPROC_PER_NODE": "4", "PET_NNODES": "2"}, "", 8),
        ("srun --ntasks-per-node 1 torchrun --nnodes 4 --nproc-per-node 8 p.py", {}, "", 32),
        ("srun torchrun --nnodes $SLURM_NNODES --nproc-per-node 8 p.py", {}, "-N 4 --ntasks-per-node=1 --gres=gpu:8", 32),
        ("srun torchrun --nnodes ${SLURM_NNODES} --nproc-per-node 8 p.py", {"SLURM_NNODES": "3"}, "", 24),
        ("torchrun --nnodes $SLURM_NNODES --nproc-per-node 8 p.py", {}, "", None),
        ("srun python p.py", {}, "--nodes=4 --ntasks-per-node=8", 32),
        ("srun -n 8 python p.py", {}, "--nodes=4 --ntasks-per-node=8", 8),
        ("srun python p.py", {"SLURM_NTASKS": "64"}, "", 64),
        ("srun python p.py", {}, "", None),
        ("srun -N 2-4 python p.py", {}, "", None),
        ("mpirun -np 16 python p.py", {}, "", 16),
        ("mpirun -H a,b,c -npernode 4 python p.py", {}, "", 12),
        ("mpiexec -n 4 python p.py", {}, "", 4),
        ("deepspeed --num_gpus 4 p.py", {}, "", 4),
        ("deepspeed --num_nodes 2 --num_gpus 8 --hostfile h p.py", {}, "", 16),
        ("deepspeed --hostfile h p.py", {}, "", None),
        ("accelerate launch --num_processes 8 p.py", {}, "", 8),
        ("python p.py", {"WORLD_SIZE": "128"}, "", 128),
        ("python p.py", {}, "", None),
    ],
)  # fmt: skip
def test_ranks_are_those_of_the_innermost_launcher_and_never_guessed(
    text: str, around: dict[str, str], directives: str, ranks: int | None
) -> None:
    found = launch(shlex.split(text), around, directives.split(), exact=True)
    assert found.ranks.total == ranks


def test_a_text_does_not_tell_what_variables_may_say() -> None:
    assert started("torchrun p.py").ranks.total is None


def test_what_of_the_ranks_is_not_known_is_named() -> None:
    assert started("torchrun --nnodes $NODES --nproc-per-node 8 p.py").ranks.unknown == ("--nnodes $NODES",)


AROUND = {"A": "0", "B": "0", "SINGULARITYENV_C": "3"}


@pytest.mark.parametrize(
    ("text", "environment"),
    [
        ("env A=1 python p.py", {"A": "1", "B": "0"}),
        ("A=1 python p.py", {"A": "1", "B": "0"}),
        ("env -i A=1 python p.py", {"A": "1"}),
        ("env -u A python p.py", {"B": "0"}),
        ("mpirun -np 2 -x A=1 -x B python p.py", {"A": "1", "B": "0"}),
        ("mpiexec -n 2 -genv A 1 python p.py", {"A": "1", "B": "0"}),
        ("srun --export=ALL,A=1 python p.py", {"A": "1", "B": "0"}),
        ("srun --export=B,A=1 python p.py", {"A": "1", "B": "0"}),
        ("srun --export=NONE python p.py", {}),
        ("docker run -e A=1 -e B img python p.py", {"A": "1", "B": "0"}),
        ("docker run -eA=1 img python p.py", {"A": "1"}),
        (
            'ray job submit --address=a --runtime-env-json=\'{"env_vars": {"A": "1"}}\' -- python p.py',
            {"A": "1", "B": "0"},
        ),
        ("ray job submit --runtime-env-json='{$X}' -- python p.py", {"A": "0", "B": "0"}),
        ("singularity exec img.sif python p.py", {"A": "0", "B": "0", "C": "3"}),
        ("apptainer exec --cleanenv --env A=1 img.sif python p.py", {"A": "1", "C": "3"}),
    ],
)
def test_variables_that_launchers_set_or_hold_back(text: str, environment: dict[str, str]) -> None:
    found = started(text, AROUND).environment(AROUND)
    assert {name: value for name, value in found.items() if name in "ABC"} == environment


def test_what_a_shell_starts_is_not_known() -> None:
    assert started("srun -N 2 bash run.sh").script
    assert started("bash -c 'torchrun --nproc-per-node 8 p.py'").script

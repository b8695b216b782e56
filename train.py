"""Train a GPT with megatron-core: every overlap asked for is in effect and read back, or refused at composition.

    python train.py                                     tiny GPT, 2 data-parallel ranks, 100 steps on real text
    python train.py comm_overlap=tp4_h100               planned for H100s; rehearsed here if there are none
    python train.py comm_overlap=pp_interleaved training=smoke
    python train.py comm_overlap=tp4_h100 --cfg job --resolve     print the plan, start nothing
    python train.py -m comm_overlap=none,dp             one run after the other
    python train.py experiment=llama31_405b_512gpu_h100_bf16 launch.dry_run=true   report what each rank would hold
    torchrun --nproc-per-node 8 train.py comm_overlap=tp8_h100    join ranks that torchrun (or srun) started
    python train.py comm_overlap=tp8_h100 launch=slurm            submit a job to Slurm

This is `hydra-overlap train`, for those who have the repository; the stages of a run are in hydra_overlap/train/__init__.py.
"""

from hydra_overlap.train import command, main, run, train

__all__ = ["command", "main", "run", "train"]

if __name__ == "__main__":
    command()

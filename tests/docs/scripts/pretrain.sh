#!/bin/bash
torchrun --nproc-per-node 8 pretrain_gpt.py \
  --tensor-model-parallel-size 1 --pipeline-model-parallel-size 1 \
  --num-layers 32 --hidden-size 4096 --num-attention-heads 32 --seq-length 4096 --max-position-embeddings 4096 \
  --micro-batch-size 1 --global-batch-size 64 --bf16 \
  --tp-comm-overlap --overlap-grad-reduce --use-distributed-optimizer

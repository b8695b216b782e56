"""A resolved plan as real megatron-core objects, trained on NCCL or rehearsed on gloo.

Nothing here decides: `resolve` did. Every module imports torch and megatron-core inside its functions or is imported
only by a rank, so that composing, gating and explaining never load them.
"""

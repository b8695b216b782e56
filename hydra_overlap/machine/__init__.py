"""What this machine is: its GPUs, what is installed, whether Transformer Engine works. Never imports torch itself."""

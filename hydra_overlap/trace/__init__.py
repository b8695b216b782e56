"""Reading what a GPU run recorded: which communication happened, and how much of it compute hid (docs/trace.md)."""

"""What people see and keep: the ledger, progress, logs and the manifest of a run."""

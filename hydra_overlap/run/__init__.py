"""What a run shows while it trains, and what it leaves: report, manifest, record, loggers."""

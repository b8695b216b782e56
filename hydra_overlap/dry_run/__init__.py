"""Ranks of any world size built in one process: what each holds, calls and when. All numbers are computed, none measured."""

"""Sweeps: every point judged before anything starts, what is left run, nothing lost.

points     overrides and sweeper settings -> the points
composer   one point's config, as Hydra composes it, fast
identity   which points are the same run under different names
judge      points -> legal, refused and duplicate ones
folder     one folder a sweep and a job: locks, the definition, finding it again
job        what a job leaves in its folder, whoever ran it
running    by any launcher: what is left of a sweep, run and resumed
progress   done, running, failed, time left
results    a folder -> rows, the best, effects, results.csv and .json
page       results -> report.html

Nothing here is imported before a sweep starts.
"""

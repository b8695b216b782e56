"""Sweeps: every point judged before anything starts, what is left run, nothing lost.

base_configs   what the points of a sweep share: option files merged once for each set of group choices
points         overrides and sweeper settings -> the points
composer       one point's config, as Hydra composes it, fast
identity       which points are the same run under different names
judge          points -> legal, refused and duplicate ones
driver         one sweep from its overrides to its results
plan_table     the plan in the terminal
pruning        trials of an Optuna search that a rule refuses
folder         one folder a sweep and a job: locks, the definition, finding it again
job            what a job leaves in its folder, whoever ran it
execution      by any launcher: what is left of a sweep, run and resumed
progress       done, running, failed, time left
results        a folder -> rows, the best, effects
words          how results are told: labels, figures, sentences
results_table  the results in the terminal
outputs        results.json, results.csv and report.html
page           the page itself

Nothing here is imported before a sweep starts.
"""

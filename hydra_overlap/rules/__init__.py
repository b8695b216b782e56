"""Every rule and every derivation, in order. The one place that lists them."""

from . import cfg, dp, env, ep, par, pp, tp, ub
from ._base import ARCHITECTURE, Config, Derivation, Rule

RULES: tuple[type[Rule], ...] = (
    *cfg.RULES,
    *par.RULES,
    *tp.RULES,
    *ub.RULES,
    *pp.RULES,
    *dp.RULES,
    *ep.RULES,
    *env.RULES,
)
"""In the order they are judged and printed; a rule stands after those it requires, or they are judged first."""

DERIVATIONS: tuple[Derivation, ...] = (
    *par.DERIVATIONS,
    *ep.DERIVATIONS,
    *tp.DERIVATIONS,
    *pp.DERIVATIONS,
    *dp.DERIVATIONS,
)
"""In the order they are made: each may read what an earlier one decided."""

__all__ = ["ARCHITECTURE", "DERIVATIONS", "RULES", "Config", "Derivation", "Rule"]

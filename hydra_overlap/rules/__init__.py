"""Every rule and every derivation, in order. The one place that lists them."""

from . import cfg, cg, cp, ddp, dp, env, ep, model, par, pp, prec, tp, trn, ub, ver
from ._base import ARCHITECTURE, Config, Derivation, Rule
from .advisories import ADVISORIES

RULES: tuple[type[Rule], ...] = (
    *cfg.RULES,
    *par.RULES,
    *model.RULES,
    *prec.RULES,
    *tp.RULES,
    *ub.RULES,
    *cp.RULES,
    *pp.RULES,
    *dp.RULES,
    *ddp.RULES,
    *ep.RULES,
    *cg.RULES,
    *env.RULES,
    *ver.RULES,
    *trn.RULES,
    *ADVISORIES,
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

__all__ = ["ADVISORIES", "ARCHITECTURE", "DERIVATIONS", "RULES", "Config", "Derivation", "Rule"]

"""VER: what a setting or a combination needs of the versions of megatron-core and Transformer Engine.

Differences that belong to one overlap are in that overlap's family (EP007, EP009, EP013, EP014 ...).
"""

from typing import Any

from packaging.version import Version

from ..findings import Fix, yaml_value
from ..schema.fields import ARRIVED, DEFAULTS, FIELDS, SINCE
from ..schema.keys import (
    CORE,
    EXPERTS,
    SM,
    TE,
)
from ..schema.versions import at_least
from ._base import KEEPS, Config, Rule


class VER001(Rule):
    """A setting does not exist in the megatron-core of the plan."""

    reads = (CORE, *SINCE)
    shows = (CORE,)
    why = "An older configuration class does not have the field, or not as a list, and nothing would read it."
    source = (
        "megatron-core core_v0.15.0 to core_v0.19.2 megatron/core/transformer/transformer_config.py, "
        "model_parallel_config.py, distributed/distributed_data_parallel_config.py, optimizer/optimizer_config.py: fields"
    )
    refused = (
        "model.moe_flex_dispatcher_backend=deepep", "model.moe_token_dispatcher_type=flex", f"{CORE}=0.15.3",
    )  # fmt: skip

    @classmethod
    def unknown(cls, c: Config) -> list[str]:
        """Settings asked for that this megatron-core does not have."""
        return [key for key, since in SINCE.items() if c[key] != DEFAULTS[key] and not at_least(c[CORE], since)]

    @classmethod
    def applies(cls, c: Config) -> bool:
        return c[CORE] is not None

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not cls.unknown(c)

    @classmethod
    def why_for(cls, c: Config) -> str:
        news = ", ".join(f"{key} exists from {SINCE[key]} on" for key in cls.unknown(c))
        return f"The plan is for megatron-core {c[CORE]}; {news}. {cls.why}"

    @classmethod
    def shown(cls, c: Config) -> tuple[str, ...]:
        return (*super().shown(c), *cls.unknown(c))

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        unknown = cls.unknown(c)
        off = " ".join(f"{key}={yaml_value(DEFAULTS[key])}" for key in unknown)
        newest = max((SINCE[key] for key in unknown), key=Version)
        upgrade = Fix(f"{CORE}={newest}", KEEPS + ", if the run will have that version")
        return (upgrade, Fix(off, "without the setting"))


class VER003(Rule):
    """A choice does not exist in the megatron-core of the plan."""

    requires = ("VER001",)
    reads = (CORE, *ARRIVED)
    shows = (CORE,)
    why = "megatron-core raises, or takes the name for another one, while its configuration is built."
    source = "megatron-core core_v0.15.0 to core_v0.19.2, the choices of each release: hydra_overlap/schema/core_releases.json"
    refused = (
        "model.moe_flex_dispatcher_backend=ncclep", "model.moe_token_dispatcher_type=flex", f"{CORE}=0.18.2",
    )  # fmt: skip

    @classmethod
    def newer(cls, c: Config) -> list[str]:
        """Settings whose choice this megatron-core does not have."""
        return [key for key in ARRIVED if _said(c[key]) - set(FIELDS[key].choices_in(c[CORE]))]

    @classmethod
    def applies(cls, c: Config) -> bool:
        return c[CORE] is not None

    @classmethod
    def holds(cls, c: Config) -> bool:
        return not cls.newer(c)

    @classmethod
    def why_for(cls, c: Config) -> str:
        told = []
        for key in cls.newer(c):
            known = ", ".join(FIELDS[key].choices_in(c[CORE])) or "none"
            told += [
                f"{name} exists from {ARRIVED[key][name]} on; the choices for {key} in megatron-core {c[CORE]} are {known}"
                for name in sorted(_said(c[key])) if name not in FIELDS[key].choices_in(c[CORE])
            ]  # fmt: skip
        return f"{'; '.join(told)}. {cls.why}"

    @classmethod
    def shown(cls, c: Config) -> tuple[str, ...]:
        return (*super().shown(c), *cls.newer(c))

    @classmethod
    def fixes_for(cls, c: Config) -> tuple[Fix, ...]:
        keys = cls.newer(c)
        needed = [ARRIVED[key][name] for key in keys for name in _said(c[key]) if name in ARRIVED[key]]
        upgrade = Fix(f"{CORE}={max(needed, key=Version)}", KEEPS + ", if the run will have that version")
        known = " ".join(f"{key}={_known(key, c)}" for key in keys)
        return (upgrade, Fix(known, "what this release has"))


def _said(value: Any) -> set[str]:
    """The names in a setting: of one choice, of a list, of none."""
    return set(value) if isinstance(value, (list, tuple)) else {value} - {None}


def _known(key: str, c: Config) -> str:
    """What this release has in place of a choice that it lacks: the default, or the list without it."""
    field, value = FIELDS[key], c[key]
    if field.listed:
        return "[" + ",".join(name for name in value if name in field.choices_in(c[CORE])) + "]"
    return str(yaml_value(field.default))


class VER002(Rule):
    """Experts on a GPU without Transformer Engine, before megatron-core 0.17."""

    reads = (EXPERTS, SM, CORE, TE)
    why = (
        "The router calls te_general_gemm, which is defined only where Transformer Engine is installed: NameError in "
        "the first step."
    )
    source = "megatron-core core_v0.16.1 megatron/core/transformer/moe/moe_utils.py:22-40, 1192; mended in 0.17"
    records = ("ep-moe-needs-te-general-gemm",)
    refused = (f"{EXPERTS}=4", "platform.sm=90", f"{CORE}=0.16.1")
    fixes = (
        Fix(f"{TE}=2.11.0", "if the run will have that version"),
        Fix(f"{CORE}=0.17.0", "if the run will have that version"),
    )

    @classmethod
    def applies(cls, c: Config) -> bool:
        return c[EXPERTS] is not None and c[SM] is not None and c[CORE] is not None

    @classmethod
    def holds(cls, c: Config) -> bool:
        return c[TE] is not None or at_least(c[CORE], "0.17.0")


class RangeRule(Rule):
    """Base: a note where a component is outside the range that the rules were written for."""

    severity = "note"
    key = ""
    first = ""
    after = ""
    """The first version behind the range."""

    @classmethod
    def applies(cls, c: Config) -> bool:
        return c[cls.key] is not None

    @classmethod
    def holds(cls, c: Config) -> bool:
        return at_least(c[cls.key], cls.first) and not at_least(c[cls.key], cls.after)


class VER201(RangeRule):
    """megatron-core is outside the range that these rules know (0.15 to 0.19)."""

    key, first, after = CORE, "0.15.0", "0.20.0"
    reads = (CORE,)
    why = "The rules were checked against those versions; with another one, more may be refused or less may overlap."
    source = "megatron-core core_v0.15.2 to core_v0.19.0"
    refused = (f"{CORE}=0.14.0",)
    fixes = (Fix(f"{CORE}=0.16.1", "the version that the rules are tested with"),)


class VER202(RangeRule):
    """Transformer Engine is outside the range that these rules know (2.8 to 2.20)."""

    key, first, after = TE, "2.8.0", "2.21.0"
    reads = (TE,)
    why = "The rules were checked against those versions; with another one, more may be refused or less may overlap."
    source = "Transformer Engine v2.8 to v2.20"
    refused = (f"{TE}=2.7.0",)
    fixes = (Fix(f"{TE}=2.11.0", "the version of the reference stack"),)


RULES: tuple[type[Rule], ...] = (VER001, VER002, VER003, VER201, VER202)

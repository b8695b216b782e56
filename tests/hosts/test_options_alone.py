"""No option and no field of ours composes unjudged in an app of someone else's."""

import pytest
from hydra.errors import HydraException

from hydra_overlap import refusal_in
from hydra_overlap.compose import option_source
from hydra_overlap.compose.option_source import HostFileSource
from hydra_overlap.findings import Finding
from tests.hosts.conftest import Host

HOST = HostFileSource("main", option_source.path(option_source.HOST_SCHEME))


def options(group: str) -> list[str]:
    """All options of a group and of those below it, as they are chosen in another app: `comm_overlap/tp=none`."""
    found = [f"{group}={name}" for name in HOST.list(group, option_source.ObjectType.CONFIG)]
    for below in HOST.list(group, option_source.ObjectType.GROUP):
        found += options(f"{group}/{below}")
    return found


GROUPS = [
    group
    for top in HOST.list("", None)
    for group in ([f"{top}/{one}" for one in HOST.list(top, None)] if top == "overlap" else [top])
]
BUNDLES = ("comm_overlap=", "comm_overlap/recipe=")


def refused(build: Host, *overrides: str, **files: str) -> tuple[Finding, ...]:
    with pytest.raises(HydraException) as error:
        build(*overrides, **files)
    refusal = refusal_in(error.value)
    assert refusal is not None, error.value
    return refusal.findings


def judged_or_refused(build: Host, *overrides: str) -> bool:
    """Whether a rule answered."""
    try:
        return build(*overrides, host="lr: 1\n").overlap.plan is not None
    except HydraException as error:
        return refusal_in(error) is not None


@pytest.mark.parametrize(
    "group", [pytest.param(group, marks=pytest.mark.slow if group == "comm_overlap" else []) for group in GROUPS]
)
def test_every_option_alone_is_judged_or_refused_with_the_way_to_a_bundle(host: Host, group: str) -> None:
    """A few presets stand for the 76: they differ in values alone."""
    chosen = options(group)
    assert chosen
    for option in chosen[:: 12 if group == "userbuffers" else 1]:
        if option.startswith(BUNDLES):
            assert judged_or_refused(host, f"+{option}"), option
            continue
        (finding,) = refused(host, f"+{option}", host="lr: 1\n")
        assert finding.rule == "CFG009", option
        assert finding.fixes[0].override.startswith("+comm_overlap=default"), option


@pytest.mark.parametrize(
    ("asked", "fix"),
    [
        (("+userbuffers=auto",), "+comm_overlap=default userbuffers=auto"),
        (("+overlap/parallelism=tp4",), "+comm_overlap=default overlap/parallelism=tp4"),
        (("+comm_overlap/dp=none", "+overlap/parallelism=dp8"), "+comm_overlap=default comm_overlap/dp=none overlap/parallelism=dp8"),
    ],
)  # fmt: skip
def test_the_fix_for_an_option_alone_composes_with_the_option_in_effect(
    host: Host, asked: tuple[str, ...], fix: str
) -> None:
    (finding,) = refused(host, *asked, host="lr: 1\n")
    assert sorted(finding.fixes[0].override.split()) == sorted(fix.split())
    cfg = host(*finding.fixes[0].override.split(), hydra=True)
    assert cfg.overlap.plan is not None
    for option in asked:
        group, _, name = option.lstrip("+").partition("=")
        assert cfg.hydra.runtime.choices[group] == name


def test_a_field_of_ours_without_a_bundle_is_refused_and_null_only_makes_room(host: Host) -> None:
    for text in ("++comm_overlap.tp.tp_comm_overlap=true", "+comm_overlap={dp:{overlap_grad_reduce:true}}"):
        assert [finding.rule for finding in refused(host, text, host="lr: 1\n")] == ["CFG009"]
    assert [f.rule for f in refused(host, host="comm_overlap: {tp: {tp_comm_overlap: true}}\n")] == ["CFG009"]
    assert host(host="comm_overlap: null\n").comm_overlap is None


def test_an_option_listed_in_the_primary_config_is_refused_without_a_bundle(host: Host) -> None:
    (finding,) = refused(host, host="defaults: [{overlap/parallelism: tp4}, _self_]\n")
    assert finding.rule == "CFG009"
    assert "In a defaults list, put `- comm_overlap: default` before it." in finding.why


def test_an_app_that_uses_nothing_of_ours_composes_as_it_would_without_us(host: Host) -> None:
    cfg = host("+parallelism=tp8", host="hydra: {job: {env_set: {A: b}}}\noverlap: 0.5\nmodel: {tp: 1}\n", hydra=True)
    assert (cfg.overlap, cfg.parallelism, cfg.model) == (0.5, "tp8", {"tp": 1})
    assert (list(cfg.hydra.job.env_copy), dict(cfg.hydra.job.env_set)) == ([], {"A": "b"})


def test_variables_that_an_app_copies_are_copied(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_THE_APP", "1")
    cfg = host(host="hydra: {job: {env_copy: [OF_THE_APP]}}\n", hydra=True)
    assert dict(cfg.hydra.job.env_set) == {"OF_THE_APP": "1"}

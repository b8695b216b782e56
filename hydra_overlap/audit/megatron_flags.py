"""The words of a Megatron-LM command as its own parser reads them: flag by flag, so that one that is not known costs only itself."""

import argparse
import re
from collections import deque
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from ..export.megatron_lm import TRANSLATED, destination
from ..export.megatron_lm_parser import VERSION, parser, releases, rows
from ..export.megatron_lm_parser import UnreadableError as WrongFlagError
from ..findings import Finding, Fix, Place
from ..schema.fields import FIELDS
from ..suggest import nearest
from .intake import Intake, alike, bears

RULE = "MEGATRON"
"""Stands in place of a rule's name: Megatron-LM itself stops, or does not look at what was said."""
DICTIONARY = "tp_comm_overlap_cfg"
NEXT = "0.20.0"  # what Megatron-LM's main branch becomes
MANY = 2_000  # flags of one command
STOPS = "Megatron-LM stops at an unknown flag; it does not accept abbreviated flags."
PARSER = f"Megatron-LM {VERSION} megatron/training/arguments.py:87-102 (allow_abbrev=False, parse_args)"


@lru_cache(maxsize=8)
def flags_of(release: str) -> frozenset[str]:
    """Every flag of one release."""
    return frozenset(flag for row in rows(release) for flag in row["flags"])


@lru_cache(maxsize=1)
def known_flags() -> frozenset[str]:
    """Every flag of Megatron's parser, of any release."""
    return frozenset().union(*map(flags_of, releases()))


def flagged(words: Sequence[str]) -> bool:
    """Whether flags of Megatron's parser are among the words."""
    return any(word.partition("=")[0] in known_flags() for word in words)


@lru_cache(maxsize=8)
def _judged_flags(release: str) -> tuple[str, ...]:
    """Flags on whose fields a verdict hangs."""
    dests = {_translated(key) or destination(key, release) for key in FIELDS if bears(key)} | {DICTIONARY}
    return tuple(flag for row in rows(release) if row["dest"] in dests for flag in row["flags"])


def needed_release(words: Sequence[str], intake: Intake) -> str | None:
    """The version of megatron-core that flags ask for which the release of exports does not have; None if it has them all."""
    known = known_flags()
    flags = {name for word in words if (name := word.partition("=")[0]) in known}
    newer = releases()[releases().index(VERSION) :]
    found = max(newer, key=lambda release: (len(flags & flags_of(release)), -newer.index(release)))
    if found == VERSION:
        return None
    core = NEXT if found == releases()[-1] else found.removeprefix("core_v")
    new = ", ".join(sorted((flags & flags_of(found)) - flags_of(VERSION)))
    intake.take("software.megatron_core", core, f"{new}: not in Megatron-LM {VERSION}, in {found}")
    intake.notes.append(f"Megatron-LM {VERSION} does not have {new}; judged as {found}, the first one that has")
    return core


def is_fork(words: Sequence[str]) -> bool:
    """Whether flags that no release of Megatron-LM has, nor nearly has, say that another program reads these words."""
    flags = {word.partition("=")[0] for word in words if re.match(r"--[A-Za-z]", word)}
    return any("_" in flag or not _misspelt(flag) for flag in flags - known_flags())


def _misspelt(flag: str) -> bool:
    match = nearest(flag, known_flags())
    return match is not None and alike(flag, match)


def parsed(words: list[str], intake: Intake, release: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Destination -> value and destination -> text, of every flag that Megatron's parser takes."""
    taken, fork = parser(suppress_defaults=True, release=release), is_fork(words)
    given: dict[str, Any] = {}
    said: dict[str, str] = {}
    for chunk in _last(list(chunks(words))):
        text = " ".join(chunk)
        try:
            found, unknown = taken.parse_known_args(chunk, argparse.Namespace())
        except WrongFlagError as error:
            if fork or "$" in text or any(_parses(chunk, other) for other in releases() if other != release):
                _leave(intake, chunk[0], text, release, str(error))
            else:
                intake.findings.append(_unreadable(text, str(error)))
            continue
        intake.notes += [f"not known: {word}" for word in unknown if word.startswith("$")]
        flag = chunk[0].partition("=")[0]
        left = [word for word in unknown if "$" not in word and not word.startswith("--")]
        if vars(found) and left and fork:
            _leave(intake, flag, text, release, f"more than Megatron-LM takes: {' '.join(left)}")
        elif vars(found) and left:
            intake.findings.append(_too_many(flag, left, text, release))
        if not vars(found):
            _unknown(intake, flag, text, release)
        for dest, value in vars(found).items():
            given[dest] = value
            said[dest] = " ".join(word for word in chunk if word not in unknown)
    return given, said


def _parses(chunk: list[str], release: str) -> bool:
    try:
        parser(suppress_defaults=True, release=release).parse_known_args(chunk, argparse.Namespace())
    except WrongFlagError:
        return False
    return True


def _leave(intake: Intake, flag: str, text: str, release: str, why: str) -> None:
    """A flag whose value another program may read, or another release, or the shell may tell."""
    intake.notes.append(f"not read: {text} ({why})")
    intake.undecided |= dict.fromkeys(_keys_of(flag, release), text)


def _unreadable(text: str, why: str) -> Finding:
    """A flag at whose value every release stops."""
    return Finding(
        rule=RULE, severity="error", title="Megatron-LM cannot read a flag", where=(Place(text, "", ""),), source=PARSER,
        why=f"Its parser ends the program: {why}.",
    )  # fmt: skip


def _unknown(intake: Intake, flag: str, text: str, release: str) -> None:
    """A flag that this release does not have: of another release, misspelt, or of the program's own."""
    others = [tag for tag in releases() if any(flag in row["flags"] for row in rows(tag))]
    if others and flag.startswith("--"):
        has = f"{others[0]} to {others[-1]} have" if len(others) > 1 else f"{others[0]} has"
        intake.notes.append(f"{flag} is no flag of Megatron-LM {release}, the release judged; {has} it")
        intake.overlook(text)
    else:
        intake.unknown(flag, _judged_flags(release), text, STOPS, PARSER)


def _too_many(flag: str, left: list[str], text: str, release: str) -> Finding:
    """A flag with more words after it than it takes: `--sequence-parallel True`."""
    row = next(row for row in rows(release) if flag in row["flags"])
    takes = "takes no value" if row["action"] != "store" else "takes one value"
    return Finding(
        rule=RULE, severity="error", title="A flag has a value that it does not take", source=PARSER,
        where=(Place(text, "", ""),), fixes=(Fix(text.removesuffix(" " + " ".join(left)), "what is read"),),
        why=f"{flag} {takes}: Megatron-LM stops at {' '.join(left)} (unrecognized arguments).",
    )  # fmt: skip


def _keys_of(flag: str, release: str) -> list[str]:
    """The fields a flag sets, of those a verdict hangs on."""
    name = flag.partition("=")[0]
    dests = {row["dest"] for row in rows(release) if name in row["flags"]}
    return [key for key in FIELDS if bears(key) and (_translated(key) or destination(key, release)) in dests]


def _translated(key: str) -> str | None:
    """The flag's destination of a field that several flags decide."""
    return key.rpartition(".")[2] if key in TRANSLATED else None


def _last(chunks: list[list[str]]) -> list[list[str]]:
    """Of a command with thousands of flags, each flag's last ones: the last one counts, and each takes a parser's time."""
    if len(chunks) <= MANY:
        return chunks
    kept: dict[str, deque[int]] = {}
    for index, chunk in enumerate(chunks):
        kept.setdefault(chunk[0].partition("=")[0], deque(maxlen=2)).append(index)
    return [chunks[index] for index in sorted(index for indices in kept.values() for index in indices)]


def chunks(words: Sequence[str]) -> Iterator[list[str]]:
    """Each flag with the words after it; words before the first flag are left out."""
    chunk: list[str] = []
    for word in words:
        if word.startswith("--"):
            if chunk:
                yield chunk
            chunk = [word]
        elif chunk:
            chunk.append(word)
    if chunk:
        yield chunk

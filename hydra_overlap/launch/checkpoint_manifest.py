"""What a checkpoint holds, file by file: written last when it is saved, compared before a byte of it is used.

`manifest.json` lists every file with its size and checksum, the step, the layout and the versions, and a checksum of itself.
Each rank sums the files it has written (`sum_own`), in the process that wrote them; rank 0 seals. To load, `glance` compares
names and sizes, and `verify` the content; ranks share the files between them. XXH3 with 128 bits finds every damage by
accident; it is no signature, and whoever can write here can write a manifest that fits.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import files
from .checkpoint_names import MANIFEST, STATE, step_of

FORMAT = 1
ALGORITHM = "xxh3_128"
CHUNK_BYTES = 8 * 2**20  # read at once
_OWN = re.compile(r"__(\d+)_\d+\.distcp")  # a file that a rank writes: megatron-core's FileSystemWriterAsync names it
_SUMS = ".sums_{rank}.json"


@dataclass(frozen=True)
class Entry:
    """One file as it was written."""

    size: int
    checksum: str


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint holds. files: by their name within its folder."""

    step: int
    files: Mapping[str, Entry]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.files.values())


def sum_own(folder: Path, rank: int) -> None:
    """Leave the checksums of the files that `rank` has written beside them, for `seal`.

    What cannot be read or written here is left to `seal`, which can tell all ranks about it.
    """
    own = [path for path in folder.iterdir() if (found := _OWN.fullmatch(path.name)) and int(found[1]) == rank]
    try:
        sums = {path.name: [path.stat().st_size, checksum(path)] for path in own}
        files.write_json(folder / _SUMS.format(rank=rank), sums)
    except OSError:
        return


def seal(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write the manifest of a checkpoint that is complete but for it. facts: `step` and whatever else is told of it.

    Raises OSError.
    """
    summed: dict[str, list[Any]] = {}
    for left in folder.glob(_SUMS.format(rank="*")):
        summed.update(files.read_json(left))
        left.unlink()
    listed = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        size = path.stat().st_size
        known = summed.get(name)
        listed[name] = {"bytes": size, ALGORITHM: known[1] if known and known[0] == size else checksum(path)}
    content = {"format": FORMAT, **facts, "files": listed}
    files.write_json(folder / MANIFEST, {**content, "checksum": _sum_of(content)})


def checksum(path: Path) -> str:
    """XXH3 of a file's content, 128 bits, hexadecimal. Raises OSError."""
    from xxhash import xxh3_128

    found, chunk = xxh3_128(), bytearray(CHUNK_BYTES)
    view = memoryview(chunk)
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(chunk):
            found.update(view[:size])
    return found.hexdigest()


def _sum_of(content: Mapping[str, Any]) -> str:
    from xxhash import xxh3_128

    return xxh3_128(json.dumps(content, sort_keys=True).encode()).hexdigest()


def glance(folder: Path) -> tuple[Manifest | None, list[str]]:
    """(the manifest, what is wrong with the checkpoint as far as names and sizes tell), reading no other file.

    (None, []) for a checkpoint of a release that wrote no manifest: nothing is known of its files.
    """
    try:
        manifest = _read(folder)
        step = manifest.step if manifest else int(json.loads((folder / STATE).read_text())["step"])
    except _Wrong as wrong:
        return None, [str(wrong)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return None, [f"{STATE} cannot be read ({type(error).__name__})"]
    if step != step_of(folder):
        file = MANIFEST if manifest else STATE
        return manifest, [f"{file} is of step {step}, so this folder was renamed, or the file is another's"]
    return manifest, _sizes(folder, manifest) if manifest else []


class _Wrong(Exception):
    """A manifest that is none; the text says why."""


def _read(folder: Path) -> Manifest | None:
    """The manifest; None for a checkpoint that was written without one."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        said = content.pop("checksum")
        listed = {name: Entry(entry["bytes"], entry[ALGORITHM]) for name, entry in content["files"].items()}
        manifest = Manifest(int(content["step"]), listed)
    except FileNotFoundError:
        if _has_none(folder):
            return None
        raise _Wrong(f"{MANIFEST} is missing, or another program wrote this folder") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _Wrong(f"{MANIFEST} cannot be read ({type(error).__name__})") from None
    if said != _sum_of(content):
        raise _Wrong(f"{MANIFEST} is not as it was written")
    return manifest


def _has_none(folder: Path) -> bool:
    """Whether a checkpoint was written without a manifest: its state says nothing of one."""
    state = files.read_json(folder / STATE)
    return bool(state) and MANIFEST not in state.values()


def _sizes(folder: Path, manifest: Manifest) -> list[str]:
    found = []
    for name, entry in manifest.files.items():
        try:
            size = (folder / name).stat().st_size
        except OSError:
            found.append(f"{name} is missing")
            continue
        if size != entry.size:
            found.append(f"{name} has {size:,} bytes, and {entry.size:,} were written")
    return found


def verify(folder: Path, manifest: Manifest, names: Iterable[str]) -> list[str]:
    """What is wrong with the content of some of the files; empty if it is what was written."""
    wrong = []
    for name in names:
        try:
            same = checksum(folder / name) == manifest.files[name].checksum
        except OSError as error:
            wrong.append(f"{name} cannot be read ({error.strerror or error})")
            continue
        if not same:
            wrong.append(f"{name} has other content than was written")
    return wrong


def share(manifest: Manifest, rank: int, ranks: int) -> list[str]:
    """The files whose content `rank` verifies: about as many bytes for each of `ranks`."""
    load = [0] * ranks
    mine = []
    for name, entry in sorted(manifest.files.items(), key=lambda item: (-item[1].size, item[0])):
        least = load.index(min(load))
        load[least] += entry.size
        if least == rank:
            mine.append(name)
    return mine


def told(folder: Path, wrong: Sequence[str]) -> str:
    """What a person reads of a damaged checkpoint; of many damages the first ones."""
    shown = [*wrong[:5], *([f"and {len(wrong) - 5} more"] if len(wrong) > 5 else [])]
    return f"{folder} is damaged: {'; '.join(shown)}."

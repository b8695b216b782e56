"""Bytes as people read them: in the unit that leaves one to four digits."""

MIB, GIB = 2**20, 2**30  # bytes
UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")  # each 1024 of the one before


def size(count: float) -> str:
    """Bytes, to three digits or four: `128 KiB`, `27.0 MiB`."""
    for unit in UNITS:
        if count < 1024 or unit == UNITS[-1]:
            break
        count /= 1024
    return f"{count:,.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"


def common_unit(largest: int) -> tuple[str, int]:
    """(name, bytes) of the unit for a table whose largest number of bytes is given: GiB, or MiB where GiB would read 0.0."""
    return ("GiB", GIB) if largest >= GIB else ("MiB", MIB)

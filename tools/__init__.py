"""Commands that make what the package carries; nothing imports them but tests."""

"""Which variables of an environment hold secrets: by their names, since nothing else tells."""

import re
from collections.abc import Mapping

_NAME = re.compile(
    r"(?:^|_)(?:TOKEN|SECRETS?|PASS|PASSWD|PASSWORD|PASSPHRASE|CREDENTIALS?|PAT|COOKIE|(?:API|ACCESS|PRIVATE|SIGNING|ENCRYPTION)_?KEY(?:_ID)?"
    r"|APIKEY|DATABASE_URL|CONNECTION_STRING|DSN)(?:$|_)|(?:^|_)(?:KEY)$",
    re.IGNORECASE,
)
SHORTEST = 8  # characters; a shorter value stands in other texts by chance


def is_secret(name: str) -> bool:
    """Whether a variable of this name holds a secret: WANDB_API_KEY, HF_TOKEN, AWS_SECRET_ACCESS_KEY, DB_PASSWORD."""
    return bool(_NAME.search(name))


def values(environment: Mapping[str, str]) -> dict[str, str]:
    """Name -> value of the secrets of an environment that are long enough to be told from any other text."""
    return {name: value for name, value in environment.items() if len(value) >= SHORTEST and is_secret(name)}

"""Make text from outside safe to print: on one line, and without credentials."""

import re
import unicodedata

# Control characters, lone surrogates, and the line and paragraph separators. Not the
# format characters: Persian words and emoji families need some of those.
UNPRINTABLE_CATEGORIES = {"Cc", "Cs", "Zl", "Zp"}

# `user:password@` or `token@` after `scheme://`. A password may contain an @.
CREDENTIALS = re.compile(r"(?<=://)(?:(?P<user>[^\s/?#:@]*):)?[^\s/?#]*@")

# `user:password@` without a scheme, as some people write proxies.
BARE_CREDENTIALS = re.compile(
    r"(?<![^\s'\"(])(?P<user>[^\s/?#:@'\"(]+):[^\s/?#@]+@(?=\w)"
)

# A query parameter whose name says that its value is a secret.
SECRET_PARAMETER = re.compile(
    r"(?P<name>[?&][^\s=&#]*(?:password|passwd|secret|token|key|signature|sig)=)"
    r"[^\s&#]+",
    re.IGNORECASE,
)


def printable(text: object) -> str:
    """Return `text` on one line, with each control character replaced by a space.

    A terminal obeys control characters: they could move the cursor or hide other text.
    """
    return "".join(
        " " if unicodedata.category(character) in UNPRINTABLE_CATEGORIES else character
        for character in str(text)
    )


def mask_credentials(text: object) -> str:
    """Return `text` with the passwords and tokens in its URLs replaced by ***."""

    def mask(match: re.Match[str]) -> str:
        user = match["user"]
        return "***@" if user is None else f"{user}:***@"

    masked = CREDENTIALS.sub(mask, str(text))
    masked = BARE_CREDENTIALS.sub(mask, masked)
    return SECRET_PARAMETER.sub(r"\g<name>***", masked)

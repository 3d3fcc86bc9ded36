"""Text that others sent, quoted in our own messages."""

MAX_QUOTED = 200  # characters of what others sent that a message quotes


def quote(content: object, limit: int = MAX_QUOTED) -> str:
    """A value as it prints, of at most `limit` characters; text stands in quotation marks.

    Characters that a terminal or a log would act upon are escaped, so that nothing that is sent can forge a line.
    """
    text = _printable(str(content)[: limit + 1], limit)
    return f"'{text}'" if isinstance(content, str) else text


def one_line(content: object, limit: int = MAX_QUOTED) -> str:
    """The message of an error as one line of at most `limit` characters; the name of its type where it is empty."""
    text = " ".join(str(content)[: 10 * limit].split())
    return _printable(text or type(content).__name__, limit)


def _printable(text: str, limit: int) -> str:
    escaped = "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
    return escaped if len(escaped) <= limit else escaped[: limit - 1] + "…"

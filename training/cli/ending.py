"""How a command ends otherwise than done or with an error of the library below it."""


class Ending(Exception):
    """The command did its work, and its answer has a status of its own.

    Args:
        text: What it writes to standard output.
        status: Exit status.
    """

    def __init__(self, text: str, *, status: int) -> None:
        super().__init__(text)
        self.status = status


class WrongCall(Exception):
    """What was asked for can't be done with these files; as for a mistaken setting, exit status 2."""

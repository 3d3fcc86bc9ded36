"""The two classes of `message_filters` that the node needs, for environments without that package.

Names and behaviour are those of `message_filters`, so that the genuine ones can take their place.
"""

from collections.abc import Callable
from typing import Any


class SimpleFilter:
    """Something that emits messages to registered callbacks."""

    def __init__(self) -> None:
        self.callbacks: dict[int, tuple[Callable[..., Any], tuple[Any, ...]]] = {}

    def registerCallback(self, cb: Callable[..., Any], *args: Any) -> int:
        """Call `cb(*messages, *args)` with whatever is emitted; returns a number for the connection."""
        connection = len(self.callbacks)
        self.callbacks[connection] = (cb, args)
        return connection

    def signalMessage(self, *msg: Any) -> None:
        """Emit messages to all callbacks."""
        for cb, args in self.callbacks.values():
            cb(*msg, *args)


class Subscriber(SimpleFilter):
    """A subscription that emits its messages.

    Args:
        *args: The node, the message type and the topic.
        **kwargs: As for `Node.create_subscription`; `qos_profile` is 10 unless given.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.node = args[0]
        self.topic = args[2]
        kwargs.setdefault("qos_profile", 10)
        self.sub = self.node.create_subscription(*args[1:], self.callback, **kwargs)

    def callback(self, msg: Any) -> None:
        """Receive a message."""
        self.signalMessage(msg)

    def getTopic(self) -> str:
        """The topic as it was given."""
        return str(self.topic)

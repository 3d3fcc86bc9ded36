"""Messages of a bag that cannot be used."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from bevdistill_ros.core.text import one_line
from training.bag.storage import BagError


@dataclass(frozen=True, kw_only=True)
class Damage:
    """How many messages of each topic are damaged, and what is wrong with the first."""

    counts: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def counted(self, topic: str) -> Iterator[None]:
        """Count what fails within as a damaged message of a topic; a BagError says that the whole bag is unusable."""
        try:
            yield
        except BagError:
            raise
        except Exception as error:  # rosbags lets through whatever its parser raises on damaged input
            self.counts[topic] += 1
            self.reasons.setdefault(topic, f"{type(error).__name__}: {one_line(error)}")

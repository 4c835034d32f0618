"""Where messages go: one small protocol, one module per place."""

from __future__ import annotations

from typing import Protocol

from edgepose.messages import Message


class Sink(Protocol):
    """Takes messages. ``publish`` never waits for a network; a fault the user can act on is an EdgeposeError."""

    def publish(self, message: Message) -> None:
        """Take one message."""
        ...

    def close(self) -> None:
        """Hand over what is left and let go; a second call does nothing."""
        ...

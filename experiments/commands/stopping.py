"""How a command that trains is stopped: a first signal asks for it, a second does it."""

import signal
from types import FrameType


class StopFlag:
    """Inside its `with`, set by SIGINT and SIGTERM; training then saves and ends. A second signal ends at once."""

    def __init__(self) -> None:
        self.signal = 0

    def __enter__(self) -> None:
        self._before = {number: signal.signal(number, self._request) for number in (signal.SIGINT, signal.SIGTERM)}

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.signal:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.signal = number

    def __call__(self) -> bool:
        """Whether a stop was asked for."""
        return self.signal != 0

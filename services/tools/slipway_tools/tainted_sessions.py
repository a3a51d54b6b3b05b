"""Which sessions hold something that came from outside."""

from collections import OrderedDict

from slipway_tools.sandbox.sessions import SessionKey

_KEPT = 65_536


class TaintedSessions:
    """Sessions that calls with arguments from outside were made in. What they left there is no cleaner than they were.

    It forgets those that were called longest ago, of many more than there may be at a time.
    """

    def __init__(self) -> None:
        self._keys: OrderedDict[SessionKey, None] = OrderedDict()

    def add(self, key: SessionKey) -> None:
        """Mark a session that is called."""
        self._keys[key] = None
        self._keys.move_to_end(key)
        if len(self._keys) > _KEPT:
            self._keys.popitem(last=False)

    def discard(self, key: SessionKey) -> None:
        """Take a mark back: it is another session by now."""
        self._keys.pop(key, None)

    def __contains__(self, key: object) -> bool:
        return key in self._keys

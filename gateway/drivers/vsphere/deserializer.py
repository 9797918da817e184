"""Makes pyVmomi read responses of the property collector of which a value is malformed.

pyVmomi converts a response while it reads it, and fails at the first value of another type than in VMware's model. A
page has 1,000 machines, so one time that is no time, or one unknown state, would make all of them unreadable. With
`TolerantDeserializer`

* a value that cannot be converted remains as text, which is one malformed field of its machine or snapshot;
* an element that cannot be read at all, such as one of an unknown type, is skipped, and its name is noted at the object
  of the response that it belongs to. `skipped_in` returns the names, since that object may be incomplete. An element
  that VMware's model does not have is ignored, as it has nothing that the gateway reads.

All other responses are read as strictly as pyVmomi does: a task whose ref is malformed must not be taken for none.
pyVmomi constructs the class at a place that has no parameter for it, so `accept_odd_values` replaces it in pyVmomi.
"""

from collections.abc import Sequence
from typing import Any

from pyVmomi import SoapAdapter, vmodl
from pyVmomi.VmomiSupport import DataObject

_MALFORMED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
_TOLERATED = {vmodl.query.PropertyCollector.RetrieveResult, vmodl.query.PropertyCollector.UpdateSet}
_SKIPPED = "skipped_elements"


def accept_odd_values() -> None:
    """Makes pyVmomi use `TolerantDeserializer`. Idempotent."""
    SoapAdapter.SoapDeserializer = TolerantDeserializer


def skipped_in(owner: Any) -> Sequence[str]:
    """The names of the elements that were skipped in an object of a response, or in the response outside of objects."""
    return tuple(vars(owner).get(_SKIPPED, ()))


class TolerantDeserializer(SoapAdapter.SoapDeserializer):  # type: ignore[misc]
    """See the module's description. The names of the methods are pyVmomi's."""

    _tolerant = False
    _depth = 0  # of elements inside of the element that is skipped, including itself

    def Deserialize(self, parser: Any, resultType: Any = object, isFault: bool = False, nsMap: Any = None) -> None:  # noqa: N802, N803
        self._tolerant, self._depth = resultType in _TOLERATED and not isFault, 0
        super().Deserialize(parser, resultType, isFault, nsMap)

    def StartElementHandler(self, tag: str, attr: Any) -> None:  # noqa: N802
        if self._depth:
            self._depth += 1
            return
        try:
            super().StartElementHandler(tag, attr)
        except _MALFORMED:
            if not self._tolerant or not self.stack:
                raise
            self._depth = 1
            if self._is_known(tag):
                self._note(tag)

    def EndElementHandler(self, tag: str) -> None:  # noqa: N802
        if self._depth:
            self._depth -= 1
            return
        parent = self.stack[-2] if len(self.stack) > 1 else None
        try:
            super().EndElementHandler(tag)
        except _MALFORMED:
            if not self._tolerant or not isinstance(parent, DataObject):
                raise
            info = parent._GetPropertyInfo(self.SplitTag(tag)[1])  # noqa: SLF001 - public in pyVmomi
            if issubclass(info.type, list):
                self._note(tag)
            else:
                object.__setattr__(parent, info.name, self.data)  # its own __setattr__ checks the type

    def _is_known(self, tag: str) -> bool:
        """Whether VMware's model has this element in its parent."""
        parent = self.stack[-1]
        if not isinstance(parent, DataObject):
            return True
        try:
            parent._GetPropertyInfo(self.SplitTag(tag)[1])  # noqa: SLF001 - public in pyVmomi
        except AttributeError:
            return False
        return True

    def _note(self, tag: str) -> None:
        content = vmodl.query.PropertyCollector.ObjectContent
        owner = next((each for each in self.stack if isinstance(each, content)), self.stack[0])
        names = vars(owner).setdefault(_SKIPPED, [])
        names.append(self.SplitTag(tag)[1])

"""The base of every virtual object, and the state in a handler's hands."""

from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel

from workflows.commands import Operation
from workflows.definition import OnDeadLetter

if TYPE_CHECKING:
    from workflows.objects.definition import ObjectDefinition

S = TypeVar("S", bound=BaseModel)


class VirtualObject(Generic[S]):
    """One object of a class, named by its key. Subclassing registers the class.

    In a handler: `self.state`, a model of the class's own; `self.version`, how often it was written; `self.key`;
    and in an exclusive one `self.operation`.
    """

    definition: ClassVar["ObjectDefinition"]

    class Meta:
        """What a class of objects says of itself. `deadline`, `priority` and `retention_days` are those of its calls.

        on_dead_letter: what becomes of the object while the call that holds it waits for a person: "hold" it,
        "release" it to the next one, or "park": hold it, and refuse new calls.
        """

        name: str
        version: int = 1
        queue: str = "workflows"
        on_dead_letter: OnDeadLetter = "hold"
        deadline: float | None = None
        priority: int = 0
        retention_days: int | None = None

    def __init__(self, key: object) -> None:
        self.key = str(key)
        self._state: S | None = None
        self._version = 0
        self._operation: Operation | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        from workflows.objects.analysis import define_object

        super().__init_subclass__(**kwargs)
        if vars(cls).get("abstract"):
            return
        define_object(cls)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.key!r})"

    @property
    def state(self) -> S:
        """The state, for the handlers."""
        return self._opened()

    @state.setter
    def state(self, value: S) -> None:
        self._opened()
        self._state = value

    @property
    def version(self) -> int:
        """How often the state had been written when the handler was called."""
        self._opened()
        return self._version

    @property
    def operation(self) -> Operation:
        """The occurrence of the call, for an exclusive handler."""
        if self._operation is None:
            raise RuntimeError(f"{self!r}: only an exclusive handler has an operation")
        return self._operation

    def _open(self, state: S, version: int, operation: Operation | None) -> None:
        """Put the state in, for a handler. Called by the engine."""
        self._state, self._version, self._operation = state, version, operation

    def _is_open(self) -> bool:
        return self._state is not None

    def _opened(self) -> S:
        if self._state is None:
            raise RuntimeError(
                f"{self!r}: its state is there in its handlers only; write a @shared one to read it"
            )
        return self._state

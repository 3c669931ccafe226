"""The methods of a virtual object: those that change its state, one at a time, and those that only look."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, cast, overload

from workflows.commands import Child
from workflows.definition import find_definition
from workflows.errors import UnknownWorkflowError
from workflows.retry import Retry

if TYPE_CHECKING:
    from workflows.objects.virtual import VirtualObject

P = ParamSpec("P")
R = TypeVar("R")
Body = Callable[..., Any]


class ObjectCall(Child[R], Generic[R]):
    """A call of an exclusive handler: for a step, or another handler, to return; or to `start`.

    Annotate the step `-> ObjectCall[Decimal]`; its output is what the handler returns.
    """

    def start(
        self,
        *,
        idempotency_key: str | None = None,
        scope: str = "",
        correlation_id: str | None = None,
        priority: int | None = None,
        deadline: float | None = None,
    ) -> Any:
        """Put the call into the object's inbox, within the caller's transaction if there is one, and return its run.

        The arguments are those of `Workflow.start`. Raises ObjectParkedError, IdempotencyConflictError.
        """
        from workflows.engine.start import parse_input, start_run

        definition = find_definition(self.workflow)
        if definition is None:
            raise UnknownWorkflowError(f"there is no workflow named {self.workflow!r}")
        return start_run(
            definition,
            parse_input(definition, self.input),
            idempotency_key=idempotency_key,
            scope=scope,
            correlation_id=correlation_id,
            priority=self.priority if priority is None else priority,
            deadline=deadline,
        )[0]


_marked: list["Handler"] = []


@contextmanager
def handlers_marked() -> Iterator[list["Handler"]]:
    """Give the handlers that were marked since the last class was made: also those that another then replaced."""
    try:
        yield list(_marked)
    finally:
        _marked.clear()


class Handler:
    """A method marked with @exclusive or @shared."""

    def __init__(self, body: Body) -> None:
        self.body = body
        self.name = body.__name__
        self.__doc__ = body.__doc__
        _marked.append(self)

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name


class Exclusive(Handler, Generic[P, R]):
    """A handler that may change the state. On an object it makes the command that calls it."""

    def __init__(self, body: Body, retry: Retry, timeout: float | None, undo: bool) -> None:
        super().__init__(body)
        self.retry, self.timeout, self.needs_undo = retry, timeout, undo
        self.undoing: tuple[Body, Retry] | None = None

    @overload
    def __get__(self, instance: None, owner: type) -> "Exclusive[P, R]": ...

    @overload
    def __get__(self, instance: "VirtualObject[Any]", owner: type) -> Callable[P, ObjectCall[R]]: ...

    def __get__(self, instance: "VirtualObject[Any] | None", owner: type) -> Any:
        if instance is None:
            return self

        def call(*args: P.args, **kwargs: P.kwargs) -> ObjectCall[R]:
            handler = instance.definition.handlers[self.name]
            given = handler.read_arguments(instance.key, args, kwargs)
            return ObjectCall[Any](workflow=handler.full_name, input=given.model_dump(mode="json"))

        return call

    def undo(self, body: Body | None = None, *, retry: Retry | None = None) -> Any:
        """Mark the method that takes the change back, after what the handler waited for has failed.

        Its parameters are some of the handler's own, and `failure`.
        """

        def mark(method: Body) -> Body:
            self.undoing = (method, retry or Retry())
            return method

        return mark(body) if body is not None else mark


class Shared(Handler, Generic[P, R]):
    """A handler that only looks. It is answered at once."""

    @overload
    def __get__(self, instance: None, owner: type) -> "Shared[P, R]": ...

    @overload
    def __get__(self, instance: "VirtualObject[Any]", owner: type) -> Callable[P, R]: ...

    def __get__(self, instance: "VirtualObject[Any] | None", owner: type) -> Any:
        if instance is None:
            return self
        if instance._is_open():  # another handler of the same object asks: of the state as it is in its hands
            return self.body.__get__(instance, owner)

        def read(*args: P.args, **kwargs: P.kwargs) -> R:
            from workflows.engine.objects import read_object

            return cast("R", read_object(instance, self.name, args, kwargs))

        return read


@overload
def exclusive(body: Callable[Concatenate[Any, P], Child[R]]) -> Exclusive[P, R]: ...


@overload
def exclusive(body: Callable[Concatenate[Any, P], R]) -> Exclusive[P, R]: ...


@overload
def exclusive(
    *, retry: Retry | None = None, timeout: float | None = None, undo: bool = True
) -> Callable[[Callable[Concatenate[Any, P], R]], Exclusive[P, R]]: ...


def exclusive(
    body: Body | None = None, *, retry: Retry | None = None, timeout: float | None = None, undo: bool = True
) -> Any:
    """Make a method the one that runs on its object: it may change `self.state`, and only writes to this database.

    It runs in the transaction of its checkpoint: an exception leaves the state as it was, and is retried by the
    policy with the object still held. It may return a command; the state is then saved as the run is suspended,
    and the object stays held until the command has ended.
    timeout: seconds after which an attempt is interrupted. undo: False says that nothing need be taken back.
    """

    def mark(method: Body) -> Exclusive[Any, Any]:
        return Exclusive(method, retry or Retry(), timeout, undo)

    return mark(body) if body is not None else mark


def shared(body: Callable[Concatenate[Any, P], R]) -> Shared[P, R]:
    """Make a method one that looks at `self.state` as it was last committed. Changing it raises ReadOnlyError."""
    return Shared(body)

"""Whether a value of one annotated type may be given to a parameter of another. In doubt it may."""

from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from workflows.commands import AnyOf, Command, First


def fits(produced: Any, declared: Any) -> bool:
    """Tell whether a value of the type `produced` can be of the type `declared`."""
    produced, declared = _bare(produced), _bare(declared)
    if Any in (produced, declared) or isinstance(produced, TypeVar) or isinstance(declared, TypeVar):
        return True
    if _is_union(produced):
        return all(fits(each, declared) for each in get_args(produced))
    if _is_union(declared):
        return any(fits(produced, each) for each in get_args(declared))
    (origin_produced, ours), (origin_declared, theirs) = _parts(produced), _parts(declared)
    if not (isinstance(origin_produced, type) and isinstance(origin_declared, type)):
        return True
    if origin_produced is int and origin_declared is float:
        return True
    if not issubclass(origin_produced, origin_declared):
        return False
    if not ours or not theirs or len(ours) != len(theirs):
        return True
    return all(fits(one, other) for one, other in zip(ours, theirs, strict=True))


def output_type(annotation: Any) -> Any:
    """Return the type of a step's output: its annotation, with every command replaced by that command's result."""
    if get_origin(annotation) is Annotated:
        return output_type(get_args(annotation)[0]) if _names_command(annotation) else annotation
    if annotation is AnyOf:
        return First[Any]
    if get_origin(annotation) is AnyOf:
        return First[output_type(get_args(annotation)[0])]  # type: ignore[misc]
    if isinstance(annotation, type) and issubclass(annotation, Command):
        generic = annotation.__pydantic_generic_metadata__["args"]
        return generic[0] if generic else annotation.result_type
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is None or not arguments:
        return annotation
    replaced = tuple(output_type(each) for each in arguments)
    if replaced == arguments:
        return annotation
    if origin in (Union, UnionType):
        return Union[replaced]  # noqa: UP007 - built from values
    return origin[replaced]


def _names_command(annotation: Any) -> bool:
    return waits(get_args(annotation)[0])


def waits(annotation: Any) -> bool:
    """Tell whether a step with this return annotation may return a command."""
    if annotation is AnyOf or get_origin(annotation) is AnyOf:
        return True
    if isinstance(annotation, type) and not get_args(annotation):
        return issubclass(annotation, Command)
    return any(waits(each) for each in get_args(annotation))


def optional(annotation: Any) -> Any:
    return annotation if annotation is Any else Union[annotation, None]  # noqa: UP007 - built from a value


def name_of(annotation: Any) -> str:
    """Return a type as people write it."""
    if annotation is NoneType:
        return "None"
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")


def _bare(annotation: Any) -> Any:
    annotation = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    return NoneType if annotation is None else annotation


def _parts(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return a generic type and its arguments; a pydantic model's are not where others keep theirs."""
    generic = getattr(annotation, "__pydantic_generic_metadata__", None)
    if generic and generic["origin"]:
        return generic["origin"], generic["args"]
    return get_origin(annotation) or annotation, get_args(annotation)


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, UnionType)

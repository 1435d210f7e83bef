"""What a pickle builds, with nothing of it run: torch's and Paddle's files are both read through this.

Python's own unpickler calls what a file names, sets attributes on what it called, keeps as many places as the largest
index the file mentions, and takes memory for a length before it has looked whether the file is as long. `Machine`
takes only the steps that tensors by name need. A name stands for what its table of stand-ins says, and for nothing
else; what is long is a view of the file; nesting of any depth costs no recursion.

Source: PEP 307, PEP 3154, PEP 574.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from anabranch.checkpoints.steps import Source, Unreadable, steps
from anabranch.errors import shown

# A training checkpoint of the family's largest net, its mean and its optimiser's state take about 100 thousand.
MAX_STEPS = 1_000_000
_VALUES = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
# The beginning of a refused name -> what a file that holds it is, and what to take instead.
_TELLING = (
    ("torch._utils._rebuild_qtensor", "it holds quantised (int8) tensors; take the weights in floating point"),
    ("torch._utils._rebuild_sparse", "it holds sparse tensors; save them with .to_dense()"),
    ("torch._utils._rebuild_meta", "it holds tensors on 'meta', which are shapes without values"),
    ("torch._utils._rebuild_nested", "it holds nested tensors, which no net of this family has"),
    ("torch.nn.modules.", "it is a whole pickled network; save its state_dict() alone"),
    ("torch.nn.parallel.", "it is a whole pickled network; save its state_dict() alone"),
    ("torch.storage._load_from_bytes", "its tensors were pickled by hand; save them with torch.save"),
    ("builtins.eval", "it wants code to be run; save the tensors alone"),
)


@dataclass(frozen=True, slots=True)
class Call:
    """Stands for a class or function that a file may name and call: what comes of its arguments."""

    make: Callable[..., object]


@dataclass(frozen=True, slots=True)
class Refused:
    """Stands for a name that no table holds, and for all that a file makes of it."""

    name: str


class Stated:
    """What a stand-in made, and whose state a file may then set."""

    def set_state(self, state: Any) -> None:
        raise NotImplementedError


class Machine:
    """Takes a pickle's steps. `allowed` says what a name stands for; `persistent` what an id outside the pickle is."""

    def __init__(
        self,
        source: Source,
        allowed: Mapping[str, object],
        *,
        protocols: Collection[int],
        persistent: Callable[[Any], object] | None = None,
    ) -> None:
        self._source = source
        self._allowed = allowed
        self._protocols = protocols
        self._persistent = persistent
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._refused: dict[str, None] = {}
        self._steps = 0
        self._converted = 0

    def run(self) -> Any:
        """What the pickle builds. Raises Unreadable for names that no table holds, for damage and for forgery."""
        try:
            result = self._run()
        except Unreadable:
            if not self._refused:
                raise
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            if not self._refused:
                raise Unreadable(
                    f"is damaged or forged: its pickle makes no sense before byte {self._source.tell()} "
                    f"({type(error).__name__}); take another copy"
                ) from None
        if self._refused:
            raise Unreadable(_refusal(list(self._refused)))
        return result

    def _run(self) -> Any:
        for step, argument in steps(self._source):
            self._count(1)
            if step in _VALUES:
                self._stack.append(argument)
            elif step in _CONSTANTS:
                self._stack.append(_CONSTANTS[step])
            else:
                self._step(step, argument)
        return self._stack.pop()

    def _count(self, steps: int) -> None:
        self._steps += steps
        if self._steps > MAX_STEPS:
            raise Unreadable(f"takes more than {MAX_STEPS} steps to build, far more than tensors by name need")

    def _step(self, step: str, argument: Any) -> None:
        stack = self._stack
        match step:
            case "PROTO":
                self._begin(argument)
            case "FRAME":
                pass  # how the writer buffered
            case "MARK":
                self._marks.append(len(stack))
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "TUPLE":
                stack.append(tuple(self._marked()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(step[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "APPEND":
                self._extend([stack.pop()])
            case "APPENDS":
                self._extend(self._marked())
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                self._set_items([key, value])
            case "SETITEMS":
                self._set_items(self._marked())
            case "GLOBAL":
                stack.append(self._named(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(self._named(module, name))
            case "REDUCE" | "NEWOBJ":
                arguments, called = stack.pop(), stack.pop()
                stack.append(self._call(called, arguments))
            case "BUILD":
                self._build(stack.pop())
            case "BINPERSID" if self._persistent is not None:
                stack.append(self._persistent(stack.pop()))
            case _:
                raise Unreadable(f"is a pickle that does {step}, which files of tensors by name have no need of")

    def _begin(self, protocol: int) -> None:
        if protocol not in self._protocols:
            raise Unreadable(
                f"is written in pickle protocol {protocol}; wanted {' or '.join(map(str, self._protocols))}: "
                "save it again in that"
            )

    def _marked(self) -> list[Any]:
        mark = self._marks.pop()
        items = self._stack[mark:]
        del self._stack[mark:]
        return items

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, Refused):
            return
        if type(target) is not list:
            raise TypeError(type(target))
        target.extend(items)

    def _set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, Refused):
            return
        if type(target) is not dict:
            raise TypeError(type(target))
        target |= by_name(zip(items[::2], items[1::2], strict=True))

    def _named(self, module: Any, name: Any) -> object:
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError(type(name))
        full = f"{'builtins' if module == '__builtin__' else module}.{name}"  # Python 2's name, in every protocol 2
        if full in self._allowed:
            return self._allowed[full]
        self._refused[full] = None
        return Refused(full)

    def _call(self, called: Any, arguments: Any) -> object:
        if isinstance(called, Refused):
            return called
        if not isinstance(called, Call) or type(arguments) is not tuple:
            raise TypeError(type(called))
        # What one short step copies, it may copy again and again.
        self._count(sum(len(each) for each in arguments if isinstance(each, dict | list | tuple)))
        self._converted += sum(len(each) for each in arguments if isinstance(each, str))
        if self._converted > len(self._source):
            raise Unreadable("is forged: it makes more of its text than it holds")
        return called.make(*arguments)

    def _build(self, state: Any) -> None:
        target = self._stack[-1]
        if isinstance(target, Refused):
            return
        if type(target) is dict and type(state) is dict and not state.keys() - {"_metadata"}:
            return  # versions that torch notes on a state dict, for its own modules
        if not isinstance(target, Stated):
            raise TypeError(type(target))
        target.set_state(state)


def by_name(pairs: Any) -> dict[Any, Any]:
    """A dict of key and value pairs. Raises Unreadable for keys that are not plain values: to hash may recurse."""
    result = {}
    for key, value in pairs:
        if type(key) not in (str, int, float, bool, type(None)):
            raise Unreadable(
                f"has a dict keyed by {type(key).__name__}, which files of weights have no need of; "
                "save the state dict alone"
            )
        result[key] = value
    return result


def _refusal(names: list[str]) -> str:
    asked = ", ".join(map(shown, names[:3])) + (", ..." if len(names) > 3 else "")
    for beginning, meaning in _TELLING:
        if any(name.startswith(beginning) for name in names):
            return f"is refused, and nothing of it was run: {meaning} (it asks for {asked})"
    return (
        f"is refused, and nothing of it was run: it asks for {asked}, which tensors by name have no need of. "
        "If you trust it, open it with the program that wrote it and save the state dict alone"
    )

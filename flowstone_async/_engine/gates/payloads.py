"""Payloads of signals: what type they are of, whether one fits, and what is stored of it.

A payload is checked where it comes in, against the type that the gate has on record, and stored as steps are: the
first byte tells how. One that came before its gate could not be checked; whoever waits for it does so.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from types import NoneType
from typing import TYPE_CHECKING, Any

from pydantic_core import ValidationError

from flowstone_async._engine.gates.type_names import NOWHERE, Home, TypeNames, UnknownType
from flowstone_async._engine.tokens import key_id
from flowstone_async.definition.assignable import Annotation, render
from flowstone_async.errors import ConfigError, PayloadInvalid, StorageError
from flowstone_async.io import pieces
from flowstone_async.io.codec import Codec, codec_for
from flowstone_async.io.copying import same

if TYPE_CHECKING:
    from pydantic import TypeAdapter

_CHECKED, _UNCHECKED = b" ", b"?"
_MOST_TYPES = 256
_PLAIN = codec_for(None)


class Payloads:
    """Payloads and their types, for the gates of an engine.

    Types that only this process can have, as they are local to a function, are remembered while they live.
    """

    def __init__(self) -> None:
        self._types = TypeNames()
        self._shapes: OrderedDict[Annotation, _Shape] = OrderedDict()

    def gate_facts(self, model: Annotation, *, secret: bytes, home: Home = NOWHERE) -> str:
        """Return what is stored of a gate (`Gate.facts`): its type's name, and which secret made its token.

        Args:
            model: The type of its payload.
            secret: The secret.
            home: Where the asset that waits is defined, as `home_of` returns it.

        Raises:
            ConfigError: Payloads of that type cannot be stored, or another process could not find it by any name.
        """
        reason = self._shape(model, home).codec.supports()
        if reason is not None:
            raise ConfigError(
                f"a signal of type {render(model)} could not be stored: {reason}",
                hint="Give a pydantic model, a dataclass or plain types.",
            )
        facts = {"type": self._types.name(model), "home": home.module, "key": key_id(secret)}
        return json.dumps(facts, separators=(",", ":"))

    def type_of(self, facts: str, *, home: Home = NOWHERE) -> Annotation:
        """Return the type of a gate's payload.

        Args:
            facts: What is stored of the gate.
            home: Where the asset that waits is defined, as `home_of` returns it.

        Raises:
            ConfigError: This process cannot find it.
        """
        found: dict[str, Any] = json.loads(facts)
        try:
            return self._types.find(found.get("type"), home, found.get("home"))
        except UnknownType as error:
            raise ConfigError(
                f"what a signal for this gate must be like cannot be told here: there is no type {error.name} "
                f"({error.reason})",
                details={"type": error.name},
                hint="The gate is as open as before. Signal from a process that can import that module, "
                "such as a worker of the pipeline.",
            ) from error

    def encode(self, model: Annotation, payload: object, home: Home = NOWHERE) -> bytes:
        """Return a payload as it is stored: equal ones as equal bytes.

        Args:
            model: The type.
            payload: Of that type, or the plain data of one.
            home: Where the asset that waits is defined.

        Raises:
            PayloadInvalid: It does not fit; `details["fields"]` says where.
        """
        return self._shape(model, home).encode(payload)

    def encode_json(self, model: Annotation, text: bytes, home: Home = NOWHERE) -> bytes:
        """Return a payload that came as JSON as it is stored; see `encode`."""
        return self._shape(model, home).encode_json(text)

    def decode(self, model: Annotation, data: bytes, home: Home = NOWHERE) -> Any:
        """Return the payload that is stored.

        Raises:
            PayloadInvalid: It came before its gate, and does not fit.
            StorageError: It is damaged, or its type has changed.
        """
        shape = self._shape(model, home)
        return shape.codec.decode(shape.encode_json(data[1:]) if is_unchecked(data) else data)

    def same(self, model: Annotation, data: bytes, stored: bytes, home: Home = NOWHERE) -> bool:
        """Tell whether an encoded payload is the one that is stored, which may never have been checked."""
        if not is_unchecked(stored):
            return data == stored
        try:
            return self.encode_json(model, stored[1:], home) == data
        except PayloadInvalid:
            return False

    def _shape(self, model: Annotation, home: Home) -> _Shape:
        model = NoneType if model is None else model  # which for a codec is no type at all
        try:
            found = self._shapes.pop(model, None) or _Shape(model, home)
        except TypeError:  # it cannot be hashed
            return _Shape(model, home)
        self._shapes[model] = found
        while len(self._shapes) > _MOST_TYPES:
            self._shapes.popitem(last=False)
        return found


def unchecked(payload: object) -> bytes:
    """Return a payload as it is stored while nobody knows of which type it must be.

    Raises:
        PayloadInvalid: It is neither plain data nor an object that pydantic can write as JSON and read again.
    """
    try:
        return _UNCHECKED + _PLAIN.encode(payload)[1:]
    except StorageError:
        pass
    shape = _Shape(type(payload), NOWHERE)
    for by_alias in (True, False):
        text = shape.dumped(payload, by_alias=by_alias)
        if text is not None:
            return _UNCHECKED + text
    raise PayloadInvalid(
        f"the gate is not on record yet, so that its type is not known, and {render(type(payload))} has no JSON form",
        details={"fields": {"": "it cannot be written as JSON"}},
        hint="Give plain data: what json.dumps takes.",
    )


def unchecked_json(text: bytes) -> bytes:
    """Return a payload that came as JSON as it is stored while nobody knows of which type it must be.

    Raises:
        PayloadInvalid: It is no JSON.
    """
    try:
        pieces.load(text)
    except ValueError as error:
        problem = f"Invalid JSON: {error}"
        raise PayloadInvalid(
            f"the payload is no JSON: {error}",
            details={"fields": {"": problem}},
            hint="Send JSON: text in double quotes, nothing behind it. Nothing at all is taken as null.",
        ) from error
    return _UNCHECKED + text


def is_unchecked(data: bytes) -> bool:
    """Tell whether a stored payload came before its gate, so that nobody has checked it."""
    return data[:1] == _UNCHECKED


class _Shape:
    """A type, ready to check values of it."""

    def __init__(self, model: Annotation, home: Home) -> None:
        self.codec: Codec = codec_for(model, names=home.local)
        self._model = model
        self._names = home.local
        self._made: TypeAdapter[Any] | None = None

    def encode(self, payload: object) -> bytes:
        try:
            return self._written(payload)
        except StorageError as error:
            adapter = self._adapter()
            if adapter is None:
                raise self._unfit({"": str(error.details["problem"])}) from None
        return self._checked(lambda: adapter.validate_python(payload))

    def encode_json(self, text: bytes) -> bytes:
        adapter = self._adapter()
        if adapter is None:
            return self.encode(pieces.load(unchecked_json(text)[1:]))
        return self._checked(lambda: adapter.validate_json(text))

    def dumped(self, payload: object, *, by_alias: bool) -> bytes | None:
        """Return the JSON of an object, if it comes back from that as it is."""
        adapter = self._adapter()
        try:
            text = None if adapter is None else adapter.dump_json(payload, by_alias=by_alias, warnings="error")
            back = None if adapter is None or text is None else adapter.validate_json(text)
        except Exception:  # serializers and validators are anybody's code
            return None
        return text if same(back, payload) else None

    def _checked(self, validate: Callable[[], object]) -> bytes:
        try:
            return self._written(validate())
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False, include_input=False)
            raise self._unfit({".".join(map(str, each["loc"])): each["msg"] for each in found}) from None
        except StorageError as error:
            raise self._unfit({"": str(error.details["problem"])}) from None
        except Exception as error:  # validators are anybody's code
            raise self._unfit({"": f"checking it raised {type(error).__name__}"}) from error

    def _written(self, value: object) -> bytes:
        """Return the one encoding of a value: equal values have equal bytes."""
        self.codec.encode(value)  # for what it says of a value that does not fit
        [plain] = self.codec.canonical_list(self.codec.encode_chunk([value]))
        return _CHECKED + pieces.dump(plain)

    def _adapter(self) -> TypeAdapter[Any] | None:
        """Return what checks plain data; None for a type that pydantic knows nothing of."""
        if self._made is None:
            from pydantic import TypeAdapter

            try:
                self._made = TypeAdapter(self._model)
                if not self._made.pydantic_complete:  # fields name types that are local to where the asset is defined
                    self._made.rebuild(_types_namespace=dict(self._names))
            except Exception:  # __get_pydantic_core_schema__ is anybody's code
                self._made = None
        return self._made

    def _unfit(self, fields: Mapping[str, str]) -> PayloadInvalid:
        lines = "; ".join(f"{field}: {problem}" if field else problem for field, problem in fields.items())
        return PayloadInvalid(
            f"the payload is no {render(self._model)}: {lines}",
            details={"type": render(self._model), "fields": dict(fields)},
            hint="The gate is as open as before: signal it again.",
        )

"""Values to bytes and back, by declared type: what was stored comes back equal and of the same type, or is refused.

A codec is made once for an annotation and kept by its caller. The first byte of what it writes names the format: a
space for JSON (so that a stored value opens in any JSON tool), `P` for a signed pickle. Nothing is unpickled that was
not declared so and signed here; nothing is imported by name. Read `Codec`, then `_Forms`, which composes the forms of
`fingerprint.py` and the records of `copying.py` by annotation.
"""

from __future__ import annotations

import contextlib
import hmac
import pickle
import sys
import typing
from collections import OrderedDict, abc
from collections.abc import Callable, Mapping, Sequence
from enum import Enum, Flag
from types import GenericAlias, UnionType
from typing import Any, Literal, NamedTuple

from pydantic_core import to_json
from typing_extensions import override

from flowstone_async.definition.assignable import Annotation, bare, is_kind, render, union_of
from flowstone_async.definition.item import Item
from flowstone_async.errors import ConfigError, StorageError
from flowstone_async.io import fingerprint as forms
from flowstone_async.io import pieces
from flowstone_async.io.copying import TRUSTED, record, same, validated
from flowstone_async.io.decisions import decision_form, input_types
from flowstone_async.io.fingerprint import Form, Misfit, Plain, Value, wrong
from flowstone_async.io.items import item_form
from flowstone_async.io.remedies import limit, remedy

_JSON, _PICKLE = b" ", b"P"
_RERUN = "Run the asset with force=True to compute it again."


class Encoded(NamedTuple):
    """A value made ready to be stored.

    Attributes:
        data: The encoded value.
        fingerprint: Its fingerprint, or None if it has no stable one.
        value: The value as a reader will load it; it shares nothing with the original.
    """

    data: bytes
    fingerprint: str | None
    value: object


class Codec:
    """How values of one declared type, its `name`, become JSON. It keeps no state: tasks and threads share it."""

    def __init__(self, annotation: object, names: Mapping[str, object]) -> None:
        self.name = "plain JSON" if annotation is None else render(annotation)
        self._reason: str | None = None
        try:
            self._form = _Forms(names).of(object if annotation is None else annotation)
        except (_Unsupported, TypeError) as unsupported:  # TypeError: no annotation at all
            self._reason = str(unsupported)
            self._form = _refusing(self._reason)
        self._many = forms.sequence(list, self._form)

    def supports(self) -> str | None:
        """Return why values of the declared type cannot be stored, or None if they can."""
        return self._reason

    def prepare(self, value: object) -> Encoded:
        """Encode `value`, take its fingerprint and load it again, each once.

        Raises:
            StorageError: The value does not fit the declared type, or would not come back as it is.
        """
        data, plain, packed = self._dump(self._form, value)
        order = self._form.order
        fingerprint = pieces.digest_of(data, 1) if order is None else pieces.digest(order(packed), len(data))
        return Encoded(data=data, fingerprint=fingerprint, value=self._load(plain, value))

    def encode(self, value: object) -> bytes:
        """Return the encoded `value`; raises as `prepare` does."""
        return self.prepare(value).data

    def copy(self, value: object) -> object:
        """Return `value` as a reader would load it; raises as `prepare` does."""
        return self.prepare(value).value

    def decode(self, data: bytes) -> object:
        """Return the value that was encoded.

        Raises:
            StorageError: The bytes are damaged, of another format, not signed, or do not fit the declared type.
        """
        return self._read(self._form, data)

    def fingerprint(self, data: bytes) -> str | None:
        """Return the fingerprint of an encoded value: equal for equal values in any process; None if it has none."""
        order = self._form.order
        return pieces.digest_of(data, 1) if order is None else pieces.digest(order(self.parse(data)), len(data))

    def encode_chunk(self, items: list[Any]) -> bytes:
        """Encode consecutive items of a stream, each of the declared type; raises as `prepare` does."""
        data, plain, _ = self._dump(self._many, items)
        if not self._form.exact:
            for packed, item in zip(plain, items, strict=True):
                self._load(packed, item)
        return data

    def decode_chunk(self, data: bytes) -> list[Any]:
        """Return the items of a chunk; raises as `decode` does."""
        return self._read(self._many, data)

    def canonical_list(self, chunk: bytes) -> list[Any]:
        """Return the items of a chunk as plain JSON values that are equal, in their order too, for equal items."""
        plain = self.parse(chunk)
        return plain if self._many.order is None else self._many.order(plain)

    def canonical_items(self, chunk: bytes) -> bytes | None:
        """Return the items of a chunk as `StreamFingerprint.update` takes them; None if they have no stable hash."""
        order = self._many.order
        return pieces.unmarked(chunk)[2:-1] if order is None else to_json(order(self.parse(chunk)))[1:-1]

    def _dump(self, form: Form, value: object) -> tuple[bytes, Plain, Plain]:
        """Return the bytes, what they say when read again, and what they were written from; the last two are equal."""
        try:
            packed = form.pack(value)
            data = _JSON + pieces.dump(packed)
            plain = pieces.load(data)
        except Misfit as misfit:
            raise self._refused(misfit, value if form is self._form else None) from None
        except (RecursionError, ValueError) as error:  # of to_json and from_json
            raise self._refused(limit(error)) from None
        if not pieces.equal(plain, packed, size=len(data)) and not same(plain, packed):
            raise self._refused(Misfit("its JSON does not read back the same"))
        return data, plain, packed

    def _load(self, plain: object, value: object) -> object:
        """Return the value that a reader would load, compared with the original where that can differ."""
        try:
            loaded = self._form.unpack(plain)
        except Misfit as misfit:
            raise self._refused(misfit) from None
        except Exception as error:  # __post_init__ and validators are anybody's code
            raise self._refused(Misfit(f"loading it again raised {type(error).__name__}")) from error
        if not self._form.exact and not same(loaded, value):
            raise self._refused(Misfit("it would not come back as it is"))
        return loaded

    def _read(self, form: Form, data: bytes) -> Value:
        plain = self.parse(data)
        try:
            return form.unpack(plain)
        except Misfit as misfit:
            raise self._unreadable(_located(misfit)) from None
        except Exception as error:  # __post_init__ and validators are anybody's code
            raise self._unreadable(f"{type(error).__name__} while loading it") from error

    def parse(self, data: bytes) -> Plain:
        """Return plain JSON as it was encoded; raises as `decode` does."""
        if data[:1] != _JSON:
            raise self._unreadable("it is not in the JSON format", 'Only an asset with format="pickle" reads pickles.')
        try:
            return pieces.load(data)
        except ValueError as error:
            raise self._unreadable(f"it is damaged ({error})") from None

    def _refused(self, misfit: Misfit, value: object = None) -> StorageError:
        problem = _located(misfit)
        details = {"type": self.name, "problem": problem}
        hint = remedy(self.name, misfit, value)
        return StorageError(f"the value does not fit {self.name}: {problem}", details=details, hint=hint)

    def _unreadable(self, problem: str, hint: str = _RERUN) -> StorageError:
        details = {"type": self.name, "problem": problem}
        return StorageError(f"the stored value cannot be read as {self.name}: {problem}", details=details, hint=hint)


def _located(misfit: Misfit) -> str:
    return f"at {''.join(misfit.path)}, {misfit.problem}" if misfit.path else misfit.problem


def codec_for(
    annotation: object | None,
    *,
    format: Literal["json", "pickle"] = "json",  # noqa: A002 # the option's name
    key: bytes | Sequence[bytes] = (),
    names: Mapping[str, object] | None = None,
) -> Codec:
    """Return a new codec for values of a declared type; keep it, for making one is slow.

    Args:
        annotation: The declared type, resolved, or None for plain JSON values only.
        format: `"pickle"` takes any picklable object.
        key: Signs pickles; of several the first signs and all verify.
        names: Names local to where the type was defined, which the annotations of its fields may use.

    Raises:
        ConfigError: `format` is unknown, or is `"pickle"` without a key.
    """
    if format == "json":
        return Codec(annotation, names or {})
    if format != "pickle":
        raise ConfigError(f"format={format!r} is not known", hint='Use "json" or "pickle".')
    keys = (key,) if isinstance(key, bytes) else tuple(key)
    if not all(keys) or not keys:
        raise ConfigError('format="pickle" needs a key to sign with', hint="Give Engine(secret=...), 32 bytes or more.")
    return _PickleCodec(annotation, keys)


class _PickleCodec(Codec):
    """Signs pickles, and unpickles nothing that is not signed with one of its keys."""

    def __init__(self, annotation: object, keys: Sequence[bytes]) -> None:
        super().__init__(None, {})
        self.name = "any picklable value" if annotation is None else render(annotation)
        tower = annotation is float or annotation is complex
        self._class = annotation if isinstance(annotation, type) and not tower else object
        self._keys = keys

    @override
    def prepare(self, value: object) -> Encoded:
        with contextlib.suppress(TypeError):  # protocols and typed dicts refuse isinstance()
            if not isinstance(value, self._class):
                raise self._refused(wrong(self.name, value))
        return self._sign(value)

    @override
    def encode_chunk(self, items: list[Any]) -> bytes:
        return self._sign(items).data

    def _sign(self, value: object) -> Encoded:
        try:
            pickled = pickle.dumps(value, protocol=5)
            loaded = pickle.loads(pickled)  # noqa: S301 # made by the line above
        except Exception as error:  # __reduce__ and __setstate__ are anybody's code
            problem = f"it cannot be pickled ({type(error).__name__}: {error})"
            raise self._refused(Misfit(problem, hint="Return data, and make live objects resources.")) from error
        data = b"".join((_PICKLE, _signature(self._keys[0], pickled), pickled))
        return Encoded(data=data, fingerprint=None, value=loaded)

    @override
    def decode(self, data: bytes) -> Value:
        if data[:1] != _PICKLE:
            raise self._unreadable('it was stored without format="pickle"')
        signature, pickled = data[1:33], memoryview(data)[33:]
        if not any(hmac.compare_digest(signature, _signature(key, pickled)) for key in self._keys):
            raise self._unreadable("no key of ours has signed it, so it was not unpickled")
        try:
            return pickle.loads(pickled)  # noqa: S301 # signed by us
        except Exception as error:  # __setstate__ is anybody's code, and classes move
            raise self._unreadable(f"unpickling it raised {type(error).__name__}") from error

    @override
    def decode_chunk(self, data: bytes) -> list[Any]:
        return self.decode(data)

    @override
    def fingerprint(self, data: bytes) -> str | None:
        return None

    @override
    def canonical_items(self, chunk: bytes) -> bytes | None:
        return None


def _signature(key: bytes, pickled: bytes | memoryview) -> bytes:
    signer = hmac.new(key, b"flowstone pickle 1", "sha256")
    signer.update(pickled)
    return signer.digest()


class _Unsupported(Exception):
    """No form keeps values of a type; the text says why."""


_ABSTRACT: Mapping[object, tuple[Any, ...]] = {
    abc.Sequence: (list, tuple),
    abc.MutableSequence: (list,),
    abc.Set: (set, frozenset),
    abc.MutableSet: (set,),
    abc.Mapping: (dict,),
    abc.MutableMapping: (dict,),
    abc.Collection: (list, tuple, set, frozenset),
    abc.Iterable: (list, tuple, set, frozenset),
}
_ONCE = (abc.Iterator, abc.Generator, abc.AsyncIterator, abc.AsyncGenerator, abc.AsyncIterable, abc.Awaitable)


class _Forms:
    """Composes the form of an annotation; a type that contains itself meets its own form half-made."""

    def __init__(self, names: Mapping[str, object]) -> None:
        self._names = names
        self._made: dict[object, Form] = {}

    def of(self, annotation: Annotation) -> Form:
        if annotation is getattr(sys.modules.get("pydantic"), "JsonValue", object):
            return forms.anything()
        plain = bare(annotation)
        if typing.get_origin(annotation) is typing.Annotated:
            return self._annotated(annotation, plain)
        if plain not in self._made:
            kinds = forms.DICT if hasattr(plain, "__annotations__") else forms.JSON_KINDS
            self._made[plain] = _later(lambda: self._made[plain], kinds)
            try:
                self._made[plain] = forms.BUILTIN.get(plain) or self._compose(plain)
            except _Unsupported:
                del self._made[plain]
                raise
        return self._made[plain]

    def _annotated(self, annotation: Annotation, plain: Annotation) -> Form:
        metadata = annotation.__metadata__
        if (inputs := input_types(metadata)) is not None:
            return decision_form(plain, inputs, self.of, self._names)
        custom = any(hasattr(each, "__get_pydantic_core_schema__") for each in metadata)
        constrains = any(type(each).__module__.startswith(("annotated_types", "pydantic")) for each in metadata)
        try:
            form = self.of(plain)
        except _Unsupported:
            if not custom:
                raise
            return self._by_pydantic(annotation)
        return self._by_pydantic(annotation, form) if (custom or constrains) and TRUSTED not in metadata else form

    def _compose(self, annotation: Annotation) -> Form:
        kind: Annotation = typing.get_origin(annotation) or annotation
        arguments = typing.get_args(annotation)
        if kind in (Any, object, Item):
            return item_form() if kind is Item else forms.anything()
        if isinstance(kind, typing.TypeVar):
            return self.of(kind.__bound__ or (union_of(kind.__constraints__) if kind.__constraints__ else object))
        if isinstance(kind, typing.NewType):
            return self.of(kind.__supertype__)
        if kind in (typing.Union, UnionType):
            return forms.union([(render(each), self.of(each)) for each in arguments])
        if typing.get_origin(annotation) is Literal:
            return forms.choice(self.of(union_of(map(type, arguments))), arguments)
        if is_kind(kind, Flag):
            return forms.converted(kind, int, lambda flag: flag.value, kind)
        if is_kind(kind, Enum):
            return forms.converted(kind, str, lambda each: each.name, lambda name: kind[name])
        return self._record(annotation) or self._container(annotation, kind, arguments)

    def _record(self, annotation: Annotation) -> Form | None:
        try:
            return record(annotation, self.of, self._names)
        except _Unsupported:
            raise
        except Exception as error:  # resolving the annotations of fields runs anybody's code
            raise _Unsupported(f"the type of a field of {render(annotation)} is not known: {error}") from error

    def _container(self, annotation: Annotation, kind: Annotation, arguments: tuple[Any, ...]) -> Form:
        if kind in _ABSTRACT:
            return self.of(union_of(_concrete(each, arguments) for each in _ABSTRACT[kind]))
        if kind in (list, set, frozenset):
            return forms.sequence(kind, self.of(arguments[0] if arguments else object), sort=kind is not list)
        if kind is tuple and (arguments[1:] == (...,) or not (arguments or isinstance(annotation, GenericAlias))):
            return forms.sequence(tuple, self.of(arguments[0] if arguments else object))
        if kind is tuple:
            return forms.fixed([self.of(each) for each in arguments])
        if kind in (dict, OrderedDict):
            key, value = arguments or (str, object)
            return forms.mapping(kind, self.of(key), self.of(value), sort=kind is dict)
        if kind in _ONCE:
            raise _Unsupported(f"{render(annotation)} can be read only once: return a list, or yield a stream")
        if isinstance(annotation, str | typing.ForwardRef):
            raise _Unsupported(f"the type {render(annotation)!r} cannot be found")
        return self._by_pydantic(annotation)

    def _by_pydantic(self, annotation: Annotation, inner: Form | None = None) -> Form:
        try:
            return validated(annotation, inner)
        except TypeError as error:
            raise _Unsupported(str(error)) from error


def _concrete(kind: Annotation, arguments: tuple[Any, ...]) -> Annotation:
    if not arguments:
        return kind
    return tuple[arguments[0], ...] if kind is tuple else kind[arguments]


def _later(find: Callable[[], Form], kinds: forms.Kinds) -> Form:
    """Return a form that stands for one that is still being made."""
    return Form(
        pack=lambda value: find().pack(value),
        unpack=lambda packed: find().unpack(packed),
        kinds=kinds,
        order=lambda packed: (find().order or forms.as_it_is)(packed),  # noqa: PLW0108 # it is found when called
    )


def _refusing(reason: str) -> Form:
    def refuse(_: object) -> object:
        raise Misfit(reason)

    return Form(pack=refuse, unpack=refuse, kinds=forms.JSON_KINDS)

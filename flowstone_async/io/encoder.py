"""Codecs by the declared type of a value, made when first needed and kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Any, Literal, TypeAlias, Union, get_args, get_origin

from flowstone_async.errors import ConfigError
from flowstone_async.io.codec import Codec, codec_for

Format: TypeAlias = Literal["json", "pickle"]

_MOST = 1_000


class Encoder:
    """The codecs of one format.

    They are found by the identity of the annotation: equal annotations such as `int | str` and `str | int` may be
    encoded differently, and hashing one costs more than encoding a number.

    Args:
        format: The codecs' format.
        key: The keys that sign pickles.

    Raises:
        ConfigError: The format is unknown.
    """

    __slots__ = ("_codecs", "_key", "format")

    def __init__(self, format: Format, key: Sequence[bytes] = ()) -> None:  # noqa: A002 # the option's name
        if format not in get_args(Format):
            raise ConfigError(f"format={format!r} is not known", hint='Use "json" or "pickle".')
        self.format: Format = format
        self._key = key
        # Annotation and names are kept with their codec, so that nothing else can get their identities. The names do
        # not count (`0`) where nothing in the annotation could ask for one.
        self._codecs: dict[tuple[int, int], tuple[Codec, object, Mapping[str, object] | None]] = {}

    def signed(self, key: bytes | Sequence[bytes]) -> Encoder:
        """Return an encoder of the same format with keys.

        Raises:
            ConfigError: The format needs a key, and there is none.
        """
        keys = (key,) if isinstance(key, bytes) else tuple(key)
        codec_for(None, format=self.format, key=keys)
        return Encoder(self.format, keys)

    def codec(self, annotation: object, names: Mapping[str, object] | None = None) -> Codec:
        """Return the codec of a declared type.

        Args:
            annotation: The declared type.
            names: Names local to where it was defined.

        Raises:
            ConfigError: The format needs a key, and there is none.
        """
        found = self._codecs.get((id(annotation), 0)) or self._codecs.get((id(annotation), id(names)))
        if found is None:
            if len(self._codecs) >= _MOST:
                self._codecs.clear()
            codec = codec_for(annotation, format=self.format, key=self._key, names=names)
            found = (codec, annotation, names)
            self._codecs[id(annotation), 0 if _is_builtin(annotation) else id(names)] = found
        return found[0]


def _is_builtin(annotation: object) -> bool:
    """Tell whether an annotation is made of built-in types only, which have no fields with annotations of their own."""
    if annotation is None or annotation is Any:
        return True
    parts = get_args(annotation)
    plain = get_origin(annotation) if parts else annotation
    known = plain in (Union, UnionType) or getattr(plain, "__module__", "") == "builtins"
    return known and all(map(_is_builtin, parts))

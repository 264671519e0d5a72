"""The gate that a body may return in place of its value, and how an annotation says so."""

from __future__ import annotations

from dataclasses import dataclass
from types import UnionType
from typing import Union, get_args, get_origin

from flowstone_async.approval_gate import ApprovalGate
from flowstone_async.definition.assignable import Annotation, bare, union_of
from flowstone_async.signals import SignalGate


@dataclass(frozen=True, slots=True)
class ReturnedGate:
    """What the gate is that a body may return in place of its value.

    Attributes:
        model: Type of the payload.
        max_rearms: How often it may be opened again after its time has passed.
    """

    model: Annotation
    max_rearms: int = 3


def gates_in(annotation: object) -> tuple[Annotation, ...]:
    """Return the gates in an annotation: `SignalGate[M]`, alone or in a union."""
    return tuple(each for each in _members(annotation) if (get_origin(each) or each) is SignalGate)


def requests_in(annotation: object) -> tuple[Annotation, ...]:
    """Return the requests in an annotation: `ApprovalGate[T]`, alone or in a union."""
    return tuple(each for each in _members(annotation) if (get_origin(each) or each) is ApprovalGate)


def without_gates(annotation: object) -> object:
    """Return the rest of a union once its gates and requests are taken out; None if there is none."""
    rest = [each for each in _members(annotation) if (get_origin(each) or each) not in (SignalGate, ApprovalGate)]
    return union_of(rest) if rest and annotation is not None else None


def _members(annotation: object) -> tuple[Annotation, ...]:
    plain = bare(annotation)
    return get_args(plain) if get_origin(plain) in (Union, UnionType) else (plain,)

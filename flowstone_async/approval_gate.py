"""The request for approval that a body returns in place of its value: `return ApprovalGate("Publish?", value=v)`."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from typing_extensions import Unpack

from flowstone_async.approvals import ApprovalOptionsGiven, Asking, question, read_approval
from flowstone_async.errors import ConfigError
from flowstone_async.signals import name_of_wait

T_co = TypeVar("T_co", covariant=True)


class ReturnedOptions(ApprovalOptionsGiven, total=False):
    """Options of `ApprovalGate`, beside the form.

    Attributes:
        show: What is to be looked at: anything that has a JSON form, or a text of its own; secrets are hidden.
        name: What the request is called; `"approval"` without it.
    """

    show: object
    name: str | None


class ApprovalGate(Generic[T_co]):
    """Ask people whether a value may be the asset's: a body annotated `T | ApprovalGate[T]` returns it.

    Then the body is over: nothing of it is held, and nothing is stored, until somebody has decided. Approved, the value
    of the asset is `value`; or the form as it was filled, where that is of the same type; or what `@asset.on_approve`
    returns. Rejected, the asset fails with `Rejected`, or `@asset.on_reject` gives its value. A scatter's body
    returns it likewise, for the result of an item.

    Args:
        text: The question.
        value: What is to be approved; kept with the record of the body meanwhile, so that it must be storable.
        form: Type of a form that whoever approves fills. If it is the type of the value, that is what is proposed, and
            what comes back is the value of the asset.
        initial: The form as it is proposed; `value` without it, where it is of the form's type.
        options: See `ReturnedOptions`.

    Raises:
        ConfigError: An option is wrong.

    Example:
        >>> @pipe.asset
        ... async def article(draft: str) -> str | ApprovalGate[str]:
        ...     return ApprovalGate("Publish?", value=draft, form=str, roles=["editor"])
    """

    __slots__ = ("asking", "value")

    def __init__(
        self, text: str, *, value: T_co, form: Any = None, initial: Any = None, **options: Unpack[ReturnedOptions]
    ) -> None:
        unknown = set(options) - set(ReturnedOptions.__annotations__) - set(ApprovalOptionsGiven.__annotations__)
        if unknown:
            raise TypeError(f"ApprovalGate() got an unexpected keyword argument {min(unknown)!r}")
        if initial is not None and form is None:
            raise ConfigError("initial= proposes a form, and there is none", hint="Say form=.")
        name = options.get("name")
        self.value = value
        self.asking = Asking(
            text=question(text),
            show=options.get("show"),
            name="approval" if name is None else name_of_wait(name),
            initial=initial,
            options=read_approval({**options, "form": form}),
        )

"""Types that assets of the tests declare."""

from __future__ import annotations

from dataclasses import InitVar, dataclass, field
from datetime import date, datetime
from decimal import Decimal
from enum import Enum, Flag, IntEnum, StrEnum
from functools import cached_property
from typing import Annotated, Generic, Literal, NamedTuple, NotRequired, TypedDict, TypeVar
from uuid import UUID

from annotated_types import Gt
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, RootModel
from pydantic.dataclasses import dataclass as pydantic_dataclass

T = TypeVar("T")
U = TypeVar("U")


class Color(Enum):
    RED = "r"
    BLUE = ("b", object())
    AZURE = BLUE


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Mode(StrEnum):
    FAST = "fast"


class Access(Flag):
    READ = 1
    WRITE = 2


@dataclass
class Plain:
    number: int
    text: str
    ratio: float = 1.0


@dataclass(frozen=True, slots=True)
class Nested:
    raw: bytes
    ratio: float
    cells: dict[tuple[int, str], Plain]
    by_day: dict[date, Color] = field(default_factory=dict)
    children: list[Nested] = field(default_factory=list)
    twin: Nested | None = None


@dataclass(frozen=True)
class Box(Generic[T]):
    item: T
    more: list[T] = field(default_factory=list)


@dataclass(frozen=True)
class PairBox(Box[list[U]], Generic[T, U]):
    other: T | None = None
    label: U | None = None


@dataclass
class Indexed:
    """Keeps what `__post_init__` derives in an attribute that is no field."""

    names: list[str]
    cached: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._index = {name: place for place, name in enumerate(self.names)}

    @cached_property
    def longest(self) -> int:
        return max(map(len, self.names), default=0)


@dataclass
class Taxed:
    """Its constructor is not idempotent."""

    total: float

    def __post_init__(self) -> None:
        self.total *= 2


@dataclass
class Derived:
    scale: InitVar[int]
    value: int = 0

    def __post_init__(self, scale: int) -> None:
        self.value *= scale


@dataclass
class Counted:
    size: Annotated[int, Gt(0)]


class Model(BaseModel):
    raw: bytes = b"\xff\x00"
    ratio: float = float("nan")
    at: datetime | None = None
    amount: Decimal = Decimal("1.10")
    cells: dict[tuple[int, str], Plain] = Field(default_factory=dict)
    alias: int = Field(default=1, alias="aliasName")
    hidden: str = Field(default="h", exclude=True)
    children: list[Model] = Field(default_factory=list)

    model_config = ConfigDict(populate_by_name=True)


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


class Home(BaseModel):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")

    name: str


class Private(BaseModel):
    name: str
    _seen: int = PrivateAttr(default=0)


class Hashed(BaseModel):
    """Its validator would change the value a second time."""

    word: Annotated[str, AfterValidator(lambda word: word + "!")]


class GenericModel(BaseModel, Generic[T]):
    item: T


class Roots(RootModel[list[date]]):
    pass


@pydantic_dataclass
class Checked:
    size: Annotated[int, Gt(0)]
    names: list[str] = Field(default_factory=list)


class Point(NamedTuple):
    x: int
    y: float = 0.0
    key: UUID | None = None


class Row(TypedDict):
    id: int
    note: NotRequired[str | None]

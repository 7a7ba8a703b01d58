"""What every table shares: constraint names, UTC timestamps, portable types."""

from datetime import UTC, datetime
from typing import ClassVar, Final

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, Integer, MetaData
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.types import TypeDecorator, TypeEngine

# Every constraint has a name that follows from its columns, so that a later migration can address it on both databases.
NAMING: Final = {
    "ix": "ix_%(column_0_N_label)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
BigInt: Final[TypeEngine[int]] = BigInteger().with_variant(Integer(), "sqlite")  # SQLite numbers rows only in INTEGER

# JSON columns hold what the JSON module reads back: the values are described by app/domain.
JsonObject = dict[str, object]


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC; naive datetimes are refused. SQLite keeps no zone, so it is put back when read."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give the moment in UTC."""
        del dialect
        if value is None:
            return None
        if value.tzinfo is None:
            msg = f"A timestamp without a zone was given: {value!r}; allowed are aware datetimes."
            raise ValueError(msg)
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give an aware datetime in UTC."""
        del dialect
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Root of all rows."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map: ClassVar[dict[object, object]] = {
        datetime: UtcDateTime(),
        dict[str, object]: JSON(none_as_null=True),
        list[object]: JSON(none_as_null=True),
    }

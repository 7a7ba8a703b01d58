"""The services of one process, put together from its settings."""

from dataclasses import dataclass
from typing import Self

from app.broker import Bell, open_bell
from app.db.session import Clock, Database, open_database
from app.services.attempts import Attempts
from app.services.device_work import DeviceWork
from app.services.devices import Devices
from app.services.garbage import Garbage
from app.services.idempotency import Idempotency
from app.services.inputs import Inputs
from app.services.jobs import Jobs
from app.services.measurements import Measurements
from app.services.outbox import Outbox
from app.services.timings import Timings
from app.services.uploads import Uploads
from app.services.workers import Workers
from app.settings import Settings
from app.storage.blobs import BlobStore
from app.storage.local import LocalStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Every use case, sharing one database, one store and one bell."""

    settings: Settings
    database: Database
    store: BlobStore
    bell: Bell
    outbox: Outbox
    idempotency: Idempotency
    uploads: Uploads
    inputs: Inputs
    jobs: Jobs
    attempts: Attempts
    workers: Workers
    garbage: Garbage
    devices: Devices
    device_work: DeviceWork
    measurements: Measurements
    timings: Timings

    @classmethod
    def of(
        cls, settings: Settings, *, database: Database, store: BlobStore, bell: Bell, clock: Clock | None = None
    ) -> Self:
        """Give the services around these parts; without a clock, the database's time counts."""
        now = clock or database.now
        devices = Devices(database=database, settings=settings, clock=now)
        outbox = Outbox(database=database, bell=bell, settings=settings, clock=now)
        return cls(
            settings=settings,
            database=database,
            store=store,
            bell=bell,
            outbox=outbox,
            idempotency=Idempotency(database=database, settings=settings, clock=now),
            uploads=Uploads(database=database, store=store, settings=settings, outbox=outbox, clock=now),
            inputs=Inputs(database=database, settings=settings),
            jobs=Jobs(database=database, settings=settings, outbox=outbox, clock=now),
            attempts=Attempts(database=database, store=store, settings=settings, outbox=outbox, clock=now),
            workers=Workers(database=database, clock=now),
            garbage=Garbage(database=database, store=store, settings=settings, clock=now),
            devices=devices,
            timings=Timings(database=database, clock=now, devices=devices),
            device_work=DeviceWork(database=database, settings=settings, clock=now),
            measurements=Measurements(database=database, settings=settings, clock=now),
        )

    def close(self) -> None:
        """Close database connections."""
        self.database.dispose()


def open_services(settings: Settings) -> Services:
    """Give the services of the settings; the schema is migrated elsewhere, at start-up."""
    return Services.of(
        settings,
        database=open_database(settings),
        store=LocalStore(settings.resolved_store_dir),
        bell=open_bell(settings),
    )

"""The web application, built from its parts by one function."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from anyio import to_thread
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client.exposition import choose_encoder
from threadpoolctl import threadpool_limits

from service import __version__, errors, pages, problems
from service.direct import Direct
from service.drift import routes as drift_routes
from service.drift.monitor import FLUSH_SECONDS, Drift
from service.gate import BodyLimit, Gate, OwnPagesOnly, Watch
from service.jobs import routes as job_routes
from service.jobs.queue import Jobs
from service.jobs.watch import JobWatch
from service.metrics import Metrics
from service.outliers import routes as outlier_routes
from service.outliers import webhooks
from service.outliers.feed import Feed
from service.outliers.feedback import Feedback
from service.outliers.shadow import Shadows
from service.outliers.sightings import Sightings
from service.protocol import routes as protocol
from service.protocol.models import Models, serves
from service.routes import SCHEMAS, Service, router
from service.schemas import Readiness, Refused
from service.scoring import routes as score_routes
from service.scoring.judging import Judging, Watchers
from service.serving.patience import BodyDeadline
from service.settings import Settings
from service.store import Store
from service.updates import routes as update_routes
from service.uploads import routes as upload_routes
from service.versions import NOT_ASKED, Versions

log = logging.getLogger(__name__)

LOOKUP_THREADS, LOOKUP_QUEUE = 4, 16
UPLOAD_THREADS, UPLOAD_QUEUE = 4, 124
AWAY_SECONDS = 1.0  # between tries to reach a store that does not answer
DESCRIPTION = """
Scores, calibrated p-values and decisions for rows and images, by numbered versions of fitted detectors.

A *p-value* is the probability, for a normal row, of a score at least as large; a row is an *outlier* if its
p-value is at most *alpha*, the false-alarm rate that you accept. Errors are problems in the form of RFC 9457.
"""


def create_app(settings: Settings, store: Store) -> FastAPI:
    """The service on ``store``. It starts to load versions when it starts up, and answers meanwhile."""
    metrics = Metrics()
    threads = settings.threads or max((os.cpu_count() or 1) // settings.workers, 1)
    jobs, versions = Jobs(store.connection), Versions(store, settings, metrics)
    feed = Feed(store.connection, settings)
    gate = Gate(threads, settings.queue, metrics.waiting, each=settings.detector_threads)
    drift = Drift(store.connection, metrics.drift)
    sightings = Sightings(feed, metrics.feed, inputs=settings.outlier_inputs)
    shadows = Shadows(store.connection, versions, metrics.feed)
    service = Service(
        settings=settings,
        store=store,
        versions=versions,
        metrics=metrics,
        gate=gate,
        judging=Judging(settings, gate, Watchers(metrics, drift, sightings, shadows)),
        jobs=jobs,
        drift=drift,
        feed=feed,
        sightings=sightings,
        feedback=Feedback(store.connection, feed, settings),
        shadows=shadows,
        watch=JobWatch(jobs),
        lookups=Gate(LOOKUP_THREADS, LOOKUP_QUEUE),
        uploads=Gate(UPLOAD_THREADS, UPLOAD_QUEUE),
    )
    metrics.watch(
        settings.queue,
        lambda: serves(versions),
        lambda: len(versions.loaded()),
        lambda: len(versions.refused()),
        versions.loaded_bytes,
        settings.max_loaded_bytes,
    )
    app = FastAPI(
        title="farfield",
        version=__version__,
        description=DESCRIPTION,
        lifespan=_lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = service
    app.state.models = Models(service)
    app.include_router(score_routes.router)
    app.include_router(router)
    app.include_router(job_routes.router)
    app.include_router(update_routes.router)
    app.include_router(drift_routes.router)
    app.include_router(outlier_routes.router)
    app.include_router(upload_routes.router)
    app.include_router(protocol.router)
    _add_health(app, service)
    pages.add(app)
    _complete_openapi(app)
    problems.install(app)
    app.add_middleware(Direct, routes=[*score_routes.DIRECT, *protocol.DIRECT])
    app.add_middleware(BodyDeadline, seconds=settings.client_seconds)
    app.add_middleware(BodyLimit, limit=settings.max_body_bytes, held=settings.max_held_bytes)
    app.add_middleware(OwnPagesOnly)
    app.add_middleware(upload_routes.TusVersion)
    app.add_middleware(Watch, metrics=metrics)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    # Requests run beside each other; a second thread inside each matrix product would only get in their way.
    with threadpool_limits(1, user_api="blas"):
        tasks = [asyncio.create_task(keep(service)) for keep in (_keep_fresh, _keep_watching, _keep_feeding)]
        yield
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        with suppress(errors.StoreUnavailable):
            await to_thread.run_sync(service.drift.flush, service.versions.loaded())
            await to_thread.run_sync(service.sightings.flush)


async def _keep_fresh(service: Service) -> None:
    """Load what there is, then follow moved aliases, for as long as the process lives."""
    versions, away = service.versions, True
    while True:
        try:
            if away:
                versions.store_state = await to_thread.run_sync(service.store.ping)  # starts an embedded server that has died
                log.info("the store answers: %s", versions.store_state)
                away = False
            if not versions.ready:
                await to_thread.run_sync(versions.start)
            await to_thread.run_sync(versions.refresh)
            service.metrics.set_jobs(await to_thread.run_sync(service.jobs.tallies))
            await asyncio.sleep(service.settings.refresh_seconds)
        except errors.ServiceError as error:
            if not away or versions.store_state == NOT_ASKED:
                log.warning("%s; versions in memory go on serving", error)
            versions.store_state, away = errors.StoreUnavailable.public, True
            service.metrics.store_error()
            await asyncio.sleep(AWAY_SECONDS)
        except Exception:
            log.exception("versions could not be refreshed")
            await asyncio.sleep(AWAY_SECONDS)


async def _keep_watching(service: Service) -> None:
    """Add the rows that were scored to the streams that drift is told by, for as long as the process lives."""
    while True:
        await asyncio.sleep(FLUSH_SECONDS)
        try:
            await to_thread.run_sync(service.drift.flush, service.versions.loaded())
        except errors.StoreUnavailable:
            service.metrics.store_error()
        except Exception:
            log.exception("the streams of drift could not be brought up to date")


async def _keep_feeding(service: Service) -> None:
    """Compare shadows, and add outliers to the feed, for as long as the process lives."""
    while True:
        await asyncio.sleep(FLUSH_SECONDS)
        try:
            await to_thread.run_sync(_fed, service)
        except errors.StoreUnavailable:
            service.metrics.store_error()
        except Exception:
            log.exception("the feed of outliers could not be brought up to date")


def _fed(service: Service) -> None:
    service.shadows.work()
    service.sightings.flush()
    names = sorted({version.name for version in service.versions.loaded()})
    service.feed.trim(names)
    service.metrics.feed.refresh(service.feed.counts(names), webhooks.waiting(service.store.connection, names))
    service.shadows.refresh(names)


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/livez", tags=["health"], summary="Whether the process answers")
    async def livez() -> dict[str, bool]:
        return {"live": True}

    @app.get("/readyz", tags=["health"], summary="Whether versions are loaded and checked", responses={503: {"model": Readiness}})
    async def readyz() -> JSONResponse:
        """Not ready before the first look at the store, nor if every version found there was refused."""
        loaded, refused = service.versions.loaded(), service.versions.refused()
        ready = serves(service.versions)
        store = service.versions.store_state
        body = Readiness(ready=ready, store=store, loaded=len(loaded), refused=[Refused(**item) for item in refused])  # type: ignore[arg-type]
        return JSONResponse(body.model_dump(), 200 if ready else 503)

    @app.get("/metrics", tags=["health"], summary="Metrics in Prometheus' text form", response_class=Response)
    def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(service.metrics.shown), media_type=content_type)


def _complete_openapi(app: FastAPI) -> None:
    """Add the schemas that only texts refer to, because the routes read their bodies themselves."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            for schema in (*SCHEMAS, *job_routes.SCHEMAS, *update_routes.SCHEMAS, *outlier_routes.SCHEMAS, *protocol.SCHEMAS):
                definition = schema.model_json_schema(ref_template="#/components/schemas/{model}")
                nested = definition.pop("$defs", {})
                for name, added in {schema.__name__: definition, **nested}.items():
                    document["components"]["schemas"].setdefault(name, added)
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]  # the way FastAPI documents

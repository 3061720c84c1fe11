"""Every setting, read once from ``FARFIELD_*`` variables and ``farfield.toml``, and passed in from there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from service.names import NAME_PATTERN

MIB = 2**20


class Settings(BaseSettings):
    """Variables win over the file; arguments given by the command line win over both."""

    model_config = SettingsConfigDict(env_prefix="FARFIELD_", toml_file="farfield.toml", frozen=True, extra="forbid")

    store: str = Field(
        "embedded:./farfield-data",
        description="Where versions are kept: embedded:FOLDER, redis://, rediss://, redis+sentinel://, redis+cluster://.",
    )
    store_timeout: float = Field(0.5, gt=0, description="Seconds after which a call to the store is given up and retried.")
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes any free one.")
    grpc_port: int | None = Field(None, ge=0, le=65535, description="Port to listen on for gRPC; 0 takes any free one, none: no gRPC.")
    workers: int = Field(1, gt=0, description="Processes that serve; each has its own threads, queue and versions in memory.")
    allow_open: bool = Field(False, description="Whether to listen, without authentication, on an address that other machines reach.")
    threads: int = Field(0, ge=0, description="Requests that a process scores at the same time; 0 takes the cores divided by the workers.")
    detector_threads: int = Field(0, ge=0, description="Of them, for one detector at most; 0 lets it have all that no other waits for.")
    queue: int = Field(64, ge=0, description="Requests that may wait for a thread; more are answered 503.")
    client_seconds: int = Field(
        20, gt=0, description="Seconds that a client has for the head of a request, and for its body beyond 64 KiB a second."
    )
    refresh_seconds: float = Field(
        0.25, gt=0, description="How often moved aliases are looked up; a promote is served within this time everywhere."
    )
    max_loaded_versions: int = Field(64, gt=0, description="Versions that a process holds in memory; the least recently used go first.")
    max_loaded_bytes: int = Field(2048 * MIB, gt=0, description="Bytes of the versions that a process holds in memory, as stored.")
    pinned: list[str] = Field([], description="Detectors loaded before the service is ready, and never dropped, as a JSON list.")
    max_body_bytes: int = Field(256 * MIB, gt=0, description="Largest request body.")
    max_json_bytes: int = Field(32 * MIB, gt=0, description="Largest JSON body; parsing it takes many times its size. Use .npy beyond.")
    max_held_bytes: int = Field(1024 * MIB, gt=0, description="Bytes of all request bodies held at the same time; more are answered 503.")
    max_rows: int = Field(100_000, gt=0, description="Most rows, or images, in one request.")
    max_features: int = Field(65_536, gt=0, description="Most columns of a row.")
    max_pixels: int = Field(50_000_000, gt=0, description="Most pixels of one image, decoded.")
    max_extractor_bytes: int = Field(512 * MIB, gt=0, description="Largest ONNX file.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where extractors run.")
    require_device: bool = Field(False, description="Refuse versions whose extractor cannot run on the device asked for.")
    batch_seconds: float = Field(
        0.1, ge=0, description="Longest that a network shall run on small requests collected to a batch; 0 runs it on each by itself."
    )
    extractor_threads: int = Field(1, ge=0, description="Threads inside one call of an extractor; 0 lets onnxruntime choose.")
    data_roots: list[str] = Field([], description="Folders and URL prefixes under which fits asked for over HTTP may read, as a JSON list.")
    fit_memory: int = Field(
        256, gt=0, description="MiB of rows and features that a fit holds; of more, it reads the data in passes and keeps sums and samples."
    )
    checkpoint_seconds: float = Field(15.0, gt=0, description="Time between the checkpoints of a fit that reads its data in passes.")
    cluster: str | None = Field(None, description="Dask scheduler that fits of data in files run on, or local:N for N processes here.")
    max_inline_bytes: int = Field(16 * MIB, gt=0, description="Most rows in a request to fit, in bytes as float64; the store keeps them.")
    max_waiting_jobs: int = Field(100, gt=0, description="Jobs that may wait for a worker; more are answered 503.")
    max_part_bytes: int = Field(16 * MIB, gt=0, description="Largest part of an upload.")
    max_upload_bytes: int = Field(1024 * MIB, gt=0, description="Largest upload.")
    max_uploads: int = Field(100, gt=0, description="Uploads and data sets kept at the same time; more are answered 507.")
    max_uploads_bytes: int = Field(2048 * MIB, gt=0, description="Bytes of all uploads and data sets; the store keeps them in its memory.")
    upload_open_seconds: int = Field(86_400, gt=0, description="Seconds after which an upload that is not complete is dropped.")
    upload_kept_seconds: int = Field(604_800, gt=0, description="Seconds that a data set is kept after its upload was complete.")
    keep_versions: int = Field(10, ge=1, description="Newest versions of a detector that `farfield gc` leaves.")
    keep_days: float = Field(30.0, ge=0, description="Days for which `farfield gc` leaves a version.")
    keep_rollbacks: int = Field(10, ge=0, le=100, description="Earlier places of each alias that `farfield gc` leaves to roll back to.")
    max_outliers: int = Field(10_000, gt=0, description="Newest outliers that the feed of a detector keeps.")
    outlier_seconds: int = Field(604_800, gt=0, description="Seconds that the feed keeps an outlier, with its input.")
    outlier_inputs: bool = Field(False, description="Whether the feed keeps the features of outliers, and thumbnails of images.")
    feedback_seconds: int = Field(7_776_000, gt=0, description="Seconds that feedback on a row is kept, with its features.")
    webhooks: list[str] = Field([], description="URLs that outliers are posted to, as a JSON list.")
    webhook_secret: str | None = Field(None, description="Base64 of the key that signs webhooks, after whsec_ or alone.", repr=False)
    webhook_rate: int = Field(60, gt=0, description="Outliers of one detector posted to one URL in a minute; more wait.")
    webhook_networks: list[str] = Field([], description="Networks that webhooks may go to besides public addresses, as a JSON list.")
    webhook_ca: str | None = Field(None, description="PEM file of authorities whose certificates webhooks believe besides the system's.")
    worker: bool = Field(True, description="Whether `farfield serve` runs a worker of its own.")
    worker_concurrency: int = Field(1, gt=0, description="Jobs that a worker runs at the same time.")
    worker_memory: int = Field(0, ge=0, description="MiB of memory that one job may take, on Linux; 0 sets no limit.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # the signature is pydantic's
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @model_validator(mode="after")
    def _required_device_is_named(self) -> Self:
        if self.require_device and self.device == "auto":
            raise ValueError("require_device needs a device to require: set FARFIELD_DEVICE to cuda or cpu")
        return self

    @field_validator("pinned")
    @classmethod
    def _pinned_are_names(cls, pinned: list[str]) -> list[str]:
        for name in pinned:
            if not re.fullmatch(NAME_PATTERN, name):
                raise ValueError(f"{name!r} cannot name a detector")
        return pinned

    @field_validator("data_roots")
    @classmethod
    def _roots_are_places(cls, roots: list[str]) -> list[str]:
        """A bare scheme would open all of it."""
        for root in roots:
            if not root.startswith("/") and "://" not in root:
                raise ValueError(f"{root!r} is neither an absolute path nor a URL")
        return roots

    @model_validator(mode="after")
    def _webhooks_can_be_sent(self) -> Self:
        if self.webhooks or self.webhook_networks or self.webhook_ca:
            from service.outliers.targets import check_targets  # not above: who sends none need not load the client that sends them

            check_targets(self.webhooks, self.webhook_secret, self.webhook_networks, self.webhook_ca)
        return self

    def embedded_folder(self) -> Path | None:
        """Data folder of the embedded store; None where the store is a server of somebody else's."""
        scheme, _, folder = self.store.partition(":")
        return Path(folder) if scheme == "embedded" else None

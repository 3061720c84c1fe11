"""The dashboard of the service itself: whether it keeps up, and what holds it up."""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard as model

from deploy.grafana.panels import SCORING, Query, board, lines, number, rows, shades

HERE = "<job>, <replica>"
RATE = "[$__rate_interval]"


def internals() -> model.Dashboard:
    """Replicas, latency by stage, saturation, store and jobs."""
    return board(
        "farfield-internals",
        "farfield: service internals",
        "Replicas, latency by stage, saturation, store and jobs.",
        {"job": ("farfield_build_info", True), "replica": ("farfield_build_info{<job>}", True)},
        {
            "Replicas": [
                rows(
                    "Replicas",
                    "Each process that is scraped. A memory that only grows, or a start a moment ago, is worth a look.",
                    {
                        "ready": (f"max by (job, instance) (farfield_ready{{{HERE}}})", "short", ((0, "red"), (1, "green"))),
                        "versions": (f'max by (job, instance) (farfield_versions{{{HERE}, state="loaded"}})', "short", ()),
                        "refused": (f'max by (job, instance) (farfield_versions{{{HERE}, state="refused"}})', "short", ((1, "red"),)),
                        "memory": (f"max by (job, instance) (farfield_process_resident_memory_bytes{{{HERE}}})", "bytes", ()),
                        "up for": (f"time() - max by (job, instance) (farfield_process_start_time_seconds{{{HERE}}})", "s", ()),
                        "release": (f"max by (job, instance, version, python) (farfield_build_info{{{HERE}}})", "short", ()),
                    },
                    keys=("job", "instance", "version", "python"),
                    first="instance",
                    width=16,
                ),
                rows(
                    "Extractors",
                    "Where the network of each version with an extractor runs: the CPU, though CUDA was asked for, is a fallback.",
                    {"replicas": (f"count by (detector, version, provider) (farfield_extractor_info{{{HERE}}})", "short", ())},
                    keys=("detector", "version", "provider"),
                    first="detector",
                    width=8,
                ),
            ],
            "Latency": [
                lines(
                    "Latency by route",
                    "99 % of the requests were answered within this. The dashed line is the second that FarfieldSlow counts by.",
                    "s",
                    Query(
                        f"histogram_quantile(0.99, sum by (route, le) (rate(farfield_request_duration_seconds_bucket{{{HERE}}}{RATE})))",
                        "{{route}}",
                    ),
                    steps=((1, "red"),),
                    width=8,
                ),
                lines(
                    "Latency by stage",
                    "99 % of the requests of scoring spent at most this in each stage. A long queue is a lack of threads.",
                    "s",
                    Query(
                        f"histogram_quantile(0.99, sum by (stage, le) (rate(farfield_stage_duration_seconds_bucket{{{HERE}}}{RATE})))",
                        "{{stage}}",
                    ),
                    steps=((1, "red"),),
                    width=8,
                ),
                lines(
                    "Mean time by stage",
                    "What a request of scoring spends its time on; the stages add up.",
                    "s",
                    Query(
                        f"sum by (stage) (rate(farfield_stage_duration_seconds_sum{{{HERE}}}{RATE}))"
                        f" / sum by (stage) (rate(farfield_stage_duration_seconds_count{{{HERE}}}{RATE}))",
                        "{{stage}}",
                    ),
                    width=8,
                    stacked=True,
                ),
                shades(
                    "Latency of scoring, all of it",
                    "Requests a second by how long they took. Two bands are two kinds of requests.",
                    "reqps",
                    Query(f"sum by (le) (rate(farfield_request_duration_seconds_bucket{{{HERE}, {SCORING}}}{RATE}))", "{{le}}"),
                    axis="s",
                ),
                lines(
                    "Requests by route",
                    "All requests, wrong ones and refused ones too.",
                    "reqps",
                    Query(f"sum by (route) (rate(farfield_requests_total{{{HERE}}}{RATE}))", "{{route}}"),
                    stacked=True,
                ),
            ],
            "Saturation": [
                lines(
                    "Places in the queue taken",
                    "Requests that wait for a thread, by how many may. From 100 % on further ones are answered 503.",
                    "percentunit",
                    Query(f"max by (instance) (farfield_queue_depth{{{HERE}}} / farfield_queue_limit{{{HERE}}})", "{{instance}}"),
                    steps=((0.5, "yellow"), (1, "red")),
                    width=8,
                ),
                lines(
                    "Cores busy",
                    "CPU seconds a second of each process, without its worker.",
                    "short",
                    Query(f"sum by (instance) (rate(farfield_process_cpu_seconds_total{{{HERE}}}{RATE}))", "{{instance}}"),
                    width=8,
                ),
                lines(
                    "Memory",
                    "Resident memory of each process, without its worker.",
                    "bytes",
                    Query(f"max by (instance) (farfield_process_resident_memory_bytes{{{HERE}}})", "{{instance}}"),
                    width=8,
                ),
                lines(
                    "Versions in memory, of their limit",
                    "Bytes of the versions that a process holds, as stored, by FARFIELD_MAX_LOADED_BYTES. "
                    "At 100 % the least recently used go, and are read again when somebody asks for them.",
                    "percentunit",
                    Query(f"max by (instance) (farfield_loaded_bytes{{{HERE}}} / farfield_loaded_bytes_limit{{{HERE}}})", "{{instance}}"),
                    steps=((0.9, "yellow"),),
                    width=8,
                ),
                lines(
                    "Open files",
                    "Sockets and files of each process by how many it may have.",
                    "percentunit",
                    Query(f"max by (instance) (farfield_process_open_fds{{{HERE}}} / farfield_process_max_fds{{{HERE}}})", "{{instance}}"),
                    steps=((0.8, "red"),),
                    width=8,
                ),
                lines(
                    "Requests not answered though they were right",
                    "429, 500, 503, 504 and 507, of the scoring requests of 10 minutes. "
                    "The dashed line is the percent at which FarfieldRefusals fires.",
                    "percentunit",
                    Query(
                        "sum by (job) (job:farfield_scoring_requests_failed:increase10m{<job>})"
                        " / sum by (job) (job:farfield_scoring_requests:increase10m{<job>})",
                        "{{job}}",
                    ),
                    steps=((0.01, "red"),),
                    width=8,
                ),
                number(
                    "Fallbacks to the CPU",
                    "Extractors that run on the CPU though CUDA was asked for, since the processes began.",
                    "short",
                    Query(f"sum(farfield_device_fallbacks_total{{{HERE}}})"),
                    steps=((1, "yellow"),),
                    width=8,
                ),
            ],
            "Store and jobs": [
                lines(
                    "Errors of the store",
                    "Calls a second that four tries did not get an answer to.",
                    "cps",
                    Query(f"sum by (instance) (rate(farfield_store_errors_total{{{HERE}}}{RATE}))", "{{instance}}"),
                    steps=((5 / 300, "red"),),
                    width=8,
                ),
                lines(
                    "Jobs that wait and run",
                    "Fits and updates of the whole store.",
                    "short",
                    Query('max by (state) (farfield_jobs{<job>, state=~"queued|running"})', "{{state}}"),
                    steps=((100, "red"),),
                    width=8,
                ),
                lines(
                    "Jobs that ended",
                    "In the hour before, by how they ended.",
                    "short",
                    Query(
                        'max by (state) (farfield_jobs{<job>, state=~"done|failed|cancelled"})'
                        ' - min by (state) (min_over_time(farfield_jobs{<job>, state=~"done|failed|cancelled"}[1h]))',
                        "{{state}}",
                    ),
                    steps=((1, "yellow"),),
                    width=8,
                ),
                lines(
                    "How long fits take",
                    "Half and 90 % of all fits so far that were done took at most this.",
                    "s",
                    *[
                        Query(
                            f"histogram_quantile({share}, max by (le) (farfield_fit_duration_seconds_bucket{{<job>}}))",
                            f"{100 * share:g} %",
                        )
                        for share in (0.5, 0.9)
                    ],
                    width=12,
                ),
                lines(
                    "Versions in memory",
                    "By replica; and refused ones, of which there should be none.",
                    "short",
                    Query(f"max by (instance, state) (farfield_versions{{{HERE}}})", "{{state}} on {{instance}}"),
                    width=12,
                ),
            ],
        },
    )

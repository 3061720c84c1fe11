"""The dashboard of all detectors: which one needs a look."""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard as model

from deploy.grafana.outliers import shadows, webhooks
from deploy.grafana.panels import ALARM, SCORING, Query, board, lines, number, rows

BY = "by (detector, version)"


def fleet() -> model.Dashboard:
    """All detectors of one deployment or of several."""
    return board(
        "farfield-fleet",
        "farfield: fleet",
        "All detectors: traffic, outliers, drift, calibration.",
        {
            "job": ("farfield_build_info", True),
            "detector": ("farfield_calibration_rows{<job>}", True),
            "replica": ("farfield_build_info{<job>}", True),
        },
        {
            "Now": [
                number(
                    "Replicas ready",
                    "Replicas that answer readyz with 200.",
                    "short",
                    Query("sum(farfield_ready{<job>, <replica>})"),
                    steps=((0, "red"), (1, "green")),
                ),
                number(
                    "Alerts that fire",
                    "Alerts of deploy/prometheus/rules.yml, whatever is chosen above.",
                    "short",
                    Query('count(ALERTS{alertname=~"Farfield.*", alertstate="firing"}) or vector(0)'),
                    steps=((1, "red"),),
                ),
                number(
                    "Versions that have drifted",
                    "Their drift alarm is up: raised by chance with a probability of at most 0.1 % in all the time of a version.",
                    "short",
                    Query("sum(max by (job, detector, version) (farfield_drift_alarm{<job>, <detector>}))"),
                    steps=((1, "red"),),
                ),
                number(
                    "Versions refused",
                    "Stored versions that are damaged or score their golden rows otherwise than when they were fitted.",
                    "short",
                    Query('max(farfield_versions{<job>, <replica>, state="refused"})'),
                    steps=((1, "red"),),
                ),
                number(
                    "Rows a second",
                    "Rows scored, by all replicas that are chosen.",
                    "rowsps",
                    Query("sum(rate(farfield_rows_scored_total{<job>, <detector>, <replica>}[$__rate_interval]))"),
                ),
                number(
                    "Requests of scoring within a second",
                    "Of the last 10 minutes; below 99 % FarfieldSlow fires.",
                    "percentunit",
                    Query(
                        "sum(job:farfield_scoring_requests_within_1s:increase10m{<job>})"
                        " / sum(job:farfield_scoring_requests:increase10m{<job>})"
                    ),
                    steps=((0, "red"), (0.99, "green")),
                ),
            ],
            "Detectors": [
                rows(
                    "Versions in memory",
                    "One line for each version, by the evidence for drift. "
                    "Share and rate are of the stream since it began; the alarm is raised at log(1000) = 6.9.",
                    {
                        "log martingale": (
                            f"max {BY} (farfield_drift_log_martingale_highest{{<job>, <detector>}})",
                            "short",
                            ((ALARM, "red"),),
                        ),
                        "rows watched": (f"max {BY} (farfield_drift_rows{{<job>, <detector>}})", "short", ()),
                        "alpha": (f"max {BY} (farfield_alpha{{<job>, <detector>}})", "percentunit", ()),
                        "share of outliers": (f"max {BY} (farfield_false_alarm_rate{{<job>, <detector>}})", "percentunit", ()),
                        "features moved": (f"max {BY} (farfield_drift_features_moved{{<job>, <detector>}})", "short", ((1, "yellow"),)),
                        "calibration rows": (f"max {BY} (farfield_calibration_rows{{<job>, <detector>}})", "short", ()),
                        "age": (
                            f"max {BY} (job_detector_version:farfield_version_age_seconds:min{{<job>, <detector>}})",
                            "s",
                            ((90 * 86400, "yellow"),),
                        ),
                    },
                    keys=("detector", "version"),
                    first="log martingale",
                ),
                rows(
                    "Aliases",
                    "Where each alias points now.",
                    {"set": ("max by (detector, alias, version) (farfield_alias_info{<job>, <detector>})", "short", ())},
                    keys=("detector", "alias", "version"),
                    first="detector",
                    width=8,
                ),
                lines(
                    "Rows by detector",
                    "Rows scored a second, by all replicas that are chosen.",
                    "rowsps",
                    Query(
                        "sum by (detector) (rate(farfield_rows_scored_total{<job>, <detector>, <replica>}[$__rate_interval]))",
                        "{{detector}}",
                    ),
                    width=8,
                    stacked=True,
                ),
                lines(
                    "Share of outliers by version",
                    "Rows called outliers by the alpha of their request, of the rows scored in 5 minutes. It should be about alpha.",
                    "percentunit",
                    Query(
                        "job_detector_version:farfield_outliers:rate5m{<job>, <detector>}"
                        " / job_detector_version:farfield_rows_scored:rate5m{<job>, <detector>}",
                        "{{detector}} {{version}}",
                    ),
                    width=8,
                    most=1,
                ),
            ],
            "Webhooks and shadows": [
                webhooks("Webhooks", 8),
                shadows("<job>, <detector>, <replica>", 16),
            ],
            "Requests and jobs": [
                lines(
                    "Requests of scoring by answer",
                    "By status code: 4xx are requests that were wrong, 429 and 5xx such that were right.",
                    "reqps",
                    Query(f"sum by (code) (rate(farfield_requests_total{{<job>, <replica>, {SCORING}}}[$__rate_interval]))", "{{code}}"),
                    width=8,
                    stacked=True,
                ),
                lines(
                    "Latency of scoring",
                    "From the first byte read to the last written. The dashed line is the second that FarfieldSlow counts by.",
                    "s",
                    *[
                        Query(
                            f"histogram_quantile({share}, sum by (le)"
                            f" (rate(farfield_request_duration_seconds_bucket{{<job>, <replica>, {SCORING}}}[$__rate_interval])))",
                            f"{100 * share:g} %",
                        )
                        for share in (0.5, 0.9, 0.99)
                    ],
                    steps=((1, "red"),),
                    width=8,
                ),
                lines(
                    "Jobs that wait and run",
                    "Fits and updates of the whole store. More than 100 that wait are refused.",
                    "short",
                    Query('max by (state) (farfield_jobs{<job>, state=~"queued|running"})', "{{state}}"),
                    steps=((100, "red"),),
                    width=8,
                ),
            ],
        },
    )

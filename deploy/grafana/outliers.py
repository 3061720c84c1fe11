"""Panels about outliers after they were scored: the feed, webhooks, feedback, and what a shadow says of the same rows."""

from __future__ import annotations

from deploy.grafana.panels import Panel, Query, lines, number, rows, shades

OF = "<job>, <detector>"
HERE = f"{OF}, <replica>"
PAIR = f"{OF}, <version>, <replica>"
BY_PAIR = "by (detector, version, shadow)"
RATE = "[$__rate_interval]"
WEBHOOKS = f"max by (detector, outcome) (rate(farfield_webhooks_total{{{OF}}}{RATE}))"  # of the store, so the same in all replicas
EVENTS = {"outliers": f"sum by (detector) (changes(farfield_last_outlier_timestamp_seconds{{{HERE}}}{RATE})) > 0"}


def feed() -> list[Panel]:
    """Whether outliers reach those who should see them."""
    return [
        number(
            "Since the last outlier",
            "How long ago a row was last called an outlier, by the replicas that are chosen.",
            "s",
            Query(f"time() - max(farfield_last_outlier_timestamp_seconds{{{HERE}}})"),
            nothing="none yet",
        ),
        number(
            "Outliers that the feed lost",
            "Since the processes began: more than 1000 waited in one of them, as while the store is away.",
            "short",
            Query(f"sum(farfield_outliers_dropped_total{{{HERE}}})"),
            steps=((1, "yellow"),),
            nothing="0",
        ),
        number(
            "Webhooks delivered",
            "In the time that is shown, to all targets together.",
            "short",
            Query(_webhooks("delivered")),
        ),
        number(
            "Deliveries that failed",
            "In the time that is shown; each is tried again, after a pause that doubles.",
            "short",
            Query(_webhooks("failed")),
            steps=((1, "yellow"),),
        ),
        number(
            "Webhooks given up",
            "In the time that is shown: twelve tries failed, over four hours. The outliers stay in the feed.",
            "short",
            Query(_webhooks("given_up")),
            steps=((1, "red"),),
        ),
        number(
            "Called false alarms",
            "Outliers of the feed's detectors that feedback marks as false alarms, of all that it marks, so far.",
            "percentunit",
            Query(
                f'sum(max by (detector) (farfield_feedback_total{{{OF}, verdict="false_alarm"}}))'
                f" / (sum(max by (detector, verdict) (farfield_feedback_total{{{OF}}})) > 0)"
            ),
            nothing="no feedback",
        ),
        webhooks("Webhooks by how they ended", 12),
        lines(
            "Deliveries that wait",
            "Of outliers to a target, at most: new ones, and those whose last try failed. 100 that failed hold the new ones up.",
            "short",
            Query(f"max by (detector) (farfield_webhooks_waiting{{{OF}}})", "{{detector}}"),  # of the store too
            steps=((100, "yellow"),),
        ),
    ]


def webhooks(title: str, width: int) -> Panel:
    """Tries to deliver, over time."""
    return lines(
        title,
        "Tries a minute to deliver an outlier, to all targets together. The dashed line is the default of FARFIELD_WEBHOOK_RATE, "
        "beyond which outliers of one detector wait for one target.",
        "cpm",
        Query(f"60 * {WEBHOOKS}", "{{detector}}: {{outcome}}"),
        steps=((60, "blue"),),
        width=width,
    )


def shadows(matchers: str = PAIR, width: int = 24) -> Panel:
    """A line for each pair of a version and its shadow."""
    counted = f"sum {BY_PAIR} (increase(farfield_shadow_rows_total{{{matchers}, outlier=~`%s`}}[$__range]))"
    apart = f"sum {BY_PAIR} (increase(farfield_shadow_p_value_difference_%s{{{matchers}}}[$__range]))"
    scored, agreed, both = (counted % who for who in (".*", "both|neither", "both"))
    return rows(
        "Versions and their shadows",
        "In the time that is shown: the rows that both scored, the share that both call outliers or neither, the outliers of either alone, "
        "and how far their p-values are apart, on average.",
        {
            "rows": (scored, "short", ()),
            "agreement": (f"{agreed} / {scored}", "percentunit", ((0, "yellow"), (0.99, "green"))),
            "outliers of both": (both, "short", ()),
            "of the version alone": (counted % "version", "short", ()),
            "of the shadow alone": (counted % "shadow", "short", ()),
            "mean difference": (f"{apart % 'sum'} / {apart % 'count'}", "short", ()),
        },
        keys=("detector", "version", "shadow"),
        first="rows",
        width=width,
    )


def shadow() -> list[Panel]:
    """What a promote of the shadow would change."""
    outliers = f"sum {BY_PAIR} (rate(farfield_shadow_rows_total{{{PAIR}, outlier=~`%s`}}{RATE}))"
    return [
        shadows(),
        lines(
            "Agreement with the shadow",
            "Share of the rows that both call outliers or neither does, at the default alpha of the version.",
            "percentunit",
            Query(f"{outliers % 'both|neither'} / {outliers % '.*'}", "version {{version}}, shadow {{shadow}}"),
            width=8,
            most=1,
        ),
        lines(
            "Overlap of outliers",
            "Of the rows that at least one calls an outlier, the share that both do. Empty where neither does.",
            "percentunit",
            Query(f"{outliers % 'both'} / ({outliers % 'both|version|shadow'} > 0)", "version {{version}}, shadow {{shadow}}"),
            width=8,
            most=1,
        ),
        lines(
            "Rows that the shadow did not score",
            "Drawn for it, a second: busy where more than 4096 waited, failed where it cannot score such rows.",
            "rowsps",
            Query(f"sum by (reason) (rate(farfield_shadow_dropped_rows_total{{{HERE}}}{RATE}))", "{{reason}}"),
            steps=((1, "yellow"),),
            width=8,
        ),
        shades(
            "Differences of p-values",
            "Rows a second by how far the p-values of a version and of its shadow are apart. All at the bottom: a promote changes nothing.",
            "rowsps",
            Query(f"sum by (le) (rate(farfield_shadow_p_value_difference_bucket{{{PAIR}}}{RATE}))", "{{le}}"),
            axis="short",
        ),
        lines(
            "Typical differences of p-values",
            "Half and 90 % of the rows differ by at most this, as far as the buckets tell.",
            "short",
            *[
                Query(
                    f"histogram_quantile({share}, sum by (shadow, le) (rate(farfield_shadow_p_value_difference_bucket{{{PAIR}}}{RATE})))",
                    f"shadow {{{{shadow}}}}, {100 * share:g} %",
                )
                for share in (0.5, 0.9)
            ],
            most=1,
        ),
    ]


def _webhooks(outcome: str) -> str:
    return f'sum(max by (detector) (increase(farfield_webhooks_total{{{OF}, outcome="{outcome}"}}[$__range])))'

"""The dashboard of one detector: whether its p-values still mean what they say."""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard as model

from deploy.grafana.outliers import EVENTS, feed, shadow
from deploy.grafana.panels import ALARM, Query, board, lines, number, rows, shades

OF = "<job>, <detector>, <version>"
HERE = f"{OF}, <replica>"
BY = "by (detector, version, instance)"
FLAGGED = f"sum {BY} (increase(farfield_outliers_total{{{HERE}}}[$__range]))"
SCORED = f"sum {BY} (increase(farfield_rows_scored_total{{{HERE}}}[$__range]))"
TENTHS = "|".join(f"{tenth / 10}" for tenth in range(1, 11))


def detector() -> model.Dashboard:
    """One detector, all its versions or some."""
    return board(
        "farfield-detector",
        "farfield: one detector",
        "P-values, drift, outliers and calibration of one detector.",
        {
            "job": ("farfield_build_info", True),
            "detector": ("farfield_calibration_rows{<job>}", False),
            "version": ("farfield_calibration_rows{<job>, <detector>}", True),
            "replica": ("farfield_build_info{<job>}", True),
        },
        {
            "Now": [
                number(
                    "Drift alarm",
                    "Up from when the martingale was first at least 1000, until the stream is reset.",
                    "short",
                    Query(f"max(farfield_drift_alarm{{{OF}}})"),
                    steps=((1, "red"),),
                    names={"0": "no drift seen", "1": "drift"},
                ),
                number(
                    "Rows watched",
                    "Rows of the streams of the versions that are chosen, since they began or were reset.",
                    "short",
                    Query(f"sum(max by (version) (farfield_drift_rows{{{OF}}}))"),
                ),
                number(
                    "Rows called outliers",
                    "In the time that is shown, by the alpha of each request, by the replicas that are chosen.",
                    "short",
                    Query(f"sum(increase(farfield_outliers_total{{{HERE}}}[$__range]))"),
                ),
                number(
                    "Calibration rows",
                    "Held-out rows behind the p-values, of the version with the fewest; no p-value is below 1 / (rows + 1).",
                    "short",
                    Query(f"min(farfield_calibration_rows{{{OF}}})"),
                ),
                number(
                    "Age of the calibration",
                    "Since the newest version that is chosen was fitted. From 90 days on FarfieldCalibrationStale counts it as old.",
                    "s",
                    Query(f"min(job_detector_version:farfield_version_age_seconds:min{{{OF}}})"),
                    steps=((90 * 86400, "yellow"),),
                ),
                number(
                    "Features moved",
                    "Features told to have another law than the calibration rows: of them at most 5 % have not moved, on average.",
                    "short",
                    Query(f"max(farfield_drift_features_moved{{{OF}}})"),
                    steps=((1, "yellow"),),
                ),
            ],
            "P-values: uniform while rows are normal": [
                shades(
                    "P-values over time",
                    "The share of rows in each tenth, times ten. Uniform p-values are 1 everywhere, in the colour of the middle; "
                    "red at the bottom says that there are too many small ones. Empty where no rows came.",
                    "short",
                    Query(
                        f'10 * sum by (le) (rate(farfield_p_value_bucket{{{HERE}, le=~"{TENTHS}"}}[$__rate_interval]))'
                        f" / ignoring (le) group_left sum(rate(farfield_p_value_count{{{HERE}}}[$__rate_interval]))",
                        "{{le}}",
                    ),
                    axis="short",
                    middle=1,
                ),
                lines(
                    "Small p-values against uniform ones",
                    "The share of p-values up to x, by x. The dashed line at 1 is where uniform p-values are; "
                    "at 2 there are twice as many as there should be.",
                    "short",
                    *[
                        Query(
                            f'sum(rate(farfield_p_value_bucket{{{HERE}, le="{bound}"}}[$__rate_interval]))'
                            f" / sum(rate(farfield_p_value_count{{{HERE}}}[$__rate_interval])) / {bound}",
                            f"up to {bound}",
                        )
                        for bound in (0.01, 0.05, 0.1, 0.5)
                    ],
                    steps=((1, "blue"),),
                ),
            ],
            "Drift": [
                lines(
                    "Drift martingale",
                    "Evidence for drift: natural logarithm of the martingale, now and at its highest. At log(1000) = 6.9, the dashed line, "
                    "the alarm is raised: by chance with a probability of at most 0.1 %, however long one looks.",
                    "short",
                    Query(f"max by (version) (farfield_drift_log_martingale{{{OF}}})", "version {{version}}"),
                    Query(f"max by (version) (farfield_drift_log_martingale_highest{{{OF}}})", "version {{version}}, highest"),
                    steps=((ALARM, "red"),),
                    width=8,
                    least=None,
                ),
                lines(
                    "Rate of outliers and what was promised",
                    "Share of the stream's rows with a p-value of at most the version's alpha, with its 95 % confidence sequence, "
                    "and where the rate of a version with so many calibration rows lies with 95 %. "
                    "Where the two are apart FarfieldFalseAlarmRateOff fires.",
                    "percentunit",
                    Query(f"max by (version) (farfield_false_alarm_rate{{{OF}}})", "version {{version}}"),
                    Query(f"max by (version) (farfield_false_alarm_rate_lower{{{OF}}})", "version {{version}}, lower end"),
                    Query(f"min by (version) (farfield_false_alarm_rate_upper{{{OF}}})", "version {{version}}, upper end"),
                    Query(f"max by (version) (farfield_false_alarm_rate_promised_lower{{{OF}}})", "version {{version}}, promised at least"),
                    Query(f"max by (version) (farfield_false_alarm_rate_promised_upper{{{OF}}})", "version {{version}}, promised at most"),
                    Query(f"max by (version) (farfield_alpha{{{OF}}})", "version {{version}}, alpha"),
                    width=8,
                ),
                lines(
                    "Distance of recent rows",
                    "Sliced Wasserstein distance of the last rows to the calibration rows, by that without drift: about 1, dashed, "
                    "while nothing drifts. A scale and no test.",
                    "short",
                    Query(f"max by (version) (farfield_drift_wasserstein_ratio{{{OF}}})", "version {{version}}"),
                    steps=((1, "blue"),),
                    width=8,
                ),
            ],
            "Outliers and scores": [
                rows(
                    "Outlier feed",
                    "Rows called outliers in the time that is shown, and their share, by the alpha of each request.",
                    {
                        "outliers": (FLAGGED, "short", ()),
                        "rows": (SCORED, "short", ()),
                        "share": (f"{FLAGGED} / {SCORED}", "percentunit", ()),
                    },
                    keys=("detector", "version", "instance"),
                    first="outliers",
                    width=8,
                ),
                lines(
                    "Outliers",
                    "Rows called outliers, by version, in each interval.",
                    "short",
                    Query(f"sum by (version) (increase(farfield_outliers_total{{{HERE}}}[$__rate_interval]))", "version {{version}}"),
                    width=8,
                    bars=True,
                ),
                lines(
                    "Scores",
                    "Quantiles of the scores, in the detector's own unit; higher is more anomalous. From buckets at quantiles of the "
                    "calibration scores, so that they are coarse.",
                    "short",
                    *[
                        Query(
                            f"histogram_quantile({share}, sum by (version, le) (rate(farfield_score_bucket{{{HERE}}}[$__rate_interval])))",
                            f"version {{{{version}}}}, {100 * share:g} %",
                        )
                        for share in (0.5, 0.99)
                    ],
                    width=8,
                    least=None,
                ),
            ],
            "Feed, webhooks and feedback": feed(),
            "Shadow": shadow(),
            "Traffic": [
                lines(
                    "Rows by version and replica",
                    "Rows scored a second.",
                    "rowsps",
                    Query(
                        f"sum by (version, instance) (rate(farfield_rows_scored_total{{{HERE}}}[$__rate_interval]))",
                        "version {{version}} on {{instance}}",
                    ),
                    stacked=True,
                ),
                rows(
                    "Aliases",
                    "Where each alias points now.",
                    {"set": (f"max by (detector, alias, version) (farfield_alias_info{{{OF}}})", "short", ())},
                    keys=("detector", "alias", "version"),
                    first="alias",
                    width=12,
                ),
            ],
        },
        events=EVENTS,
    )

"""What Prometheus is told of drift: the streams of the whole store, as this process last saw them, so take the max over replicas."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

Labels = tuple[str, str]  # detector, version

FIGURES = {
    "farfield_drift_rows": "Rows of the version's stream, over all replicas, since it began or was reset.",
    "farfield_drift_log_martingale": "Evidence for drift: natural logarithm of the conformal test martingale; 0 at first.",
    "farfield_drift_log_martingale_highest": "The highest that farfield_drift_log_martingale ever was in this stream.",
    "farfield_drift_alarm": "1 from when the martingale was first at least 1000, until the stream is reset.",
    "farfield_drift_features_moved": "Features told to have moved, by recent rows.",
    "farfield_drift_wasserstein_ratio": "Sliced Wasserstein distance of recent rows to the calibration rows, by that without drift.",
    "farfield_false_alarm_rate": "Share of the stream's rows with a p-value of at most the version's alpha.",
    "farfield_false_alarm_rate_lower": "Lower end of the 95 % confidence sequence of farfield_false_alarm_rate.",
    "farfield_false_alarm_rate_upper": "Upper end of the 95 % confidence sequence of farfield_false_alarm_rate.",
    "farfield_false_alarm_rate_promised_lower": "Lower end of where the rate lies without drift, for so many calibration rows, with 95 %.",
    "farfield_false_alarm_rate_promised_upper": "Upper end of where the rate lies without drift, for so many calibration rows, with 95 %.",
    "farfield_alpha": "The version's alpha: what farfield_false_alarm_rate should be about.",
}


class DriftFigures(Collector):
    """Gauges by detector and version of what is loaded; a figure that a version does not have is left out."""

    def __init__(self, loaded: Callable[[Labels], bool]) -> None:
        self._loaded = loaded
        self.current: dict[Labels, dict[str, float]] = {}

    def collect(self) -> Iterator[GaugeMetricFamily]:
        current = self.current  # replaced whole, never changed
        for name, text in FIGURES.items():
            family = GaugeMetricFamily(name, text, labels=("detector", "version"))
            for labels, figures in current.items():
                if name in figures and self._loaded(labels):  # unloaded since they were told
                    family.add_metric(labels, figures[name])
            yield family

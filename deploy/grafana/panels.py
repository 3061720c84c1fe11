"""How every panel and variable of the dashboards is made, so that they look and ask alike.

A query stands in PromQL, with ``<job>`` and the like for the matchers of ``MATCHERS``. These are raw strings of PromQL,
between backquotes, around values that Grafana escapes for a regular expression, so that neither dots nor quotes in
a value change what a query means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.models import common as shape
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat
from grafana_foundation_sdk.models.table import Options as TableOptions

P = TypeVar("P", timeseries.Panel, stat.Panel)
Panel = timeseries.Panel | stat.Panel | heatmap.Panel | table.Panel
Steps = tuple[tuple[float, str], ...]  # from this value on, this colour; below the first one, green

SOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
SCORING = 'route=~".*(:score|:append|/infer|Infer)"'  # as in rules.yml
MATCHERS = {
    "job": "job=~`${job:regex}`",
    "detector": "detector=~`${detector:regex}`",
    "version": "version=~`${version:regex}`",
    "replica": "instance=~`${replica:regex}`",
}
LABELS = {"replica": "instance"}  # of Prometheus, where they have another name than the variable
ALARM = 6.908  # log(1000), where the drift alarm is raised
TO_DETECTOR = {
    "title": "this detector",
    "url": "/d/farfield-detector?var-detector=${__value.raw}&${job:queryparam}&${datasource:queryparam}",
}
WHOLE = 24  # columns of a dashboard


@dataclass(frozen=True)
class Query:
    """PromQL with placeholders, and what its series are called, by labels in double braces."""

    text: str
    legend: str = ""

    def target(self, number: int) -> prometheus.Dataquery:
        return prometheus.Dataquery().datasource(SOURCE).ref_id(chr(ord("A") + number)).expr(asked(self.text)).legend_format(self.legend)


def asked(text: str) -> str:
    """``text`` with the matchers in place of their names, as Prometheus gets it once Grafana has put values for its variables."""
    for name, matcher in MATCHERS.items():
        text = text.replace(f"<{name}>", matcher)
    return text


def lines(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    steps: Steps = (),
    width: int = 12,
    stacked: bool = False,
    bars: bool = False,
    least: float | None = 0,
    most: float | None = None,
) -> timeseries.Panel:
    """Values over time; each of ``steps`` is drawn as a dashed line."""
    panel = timeseries.Panel().legend(
        common.VizLegendOptions()
        .show_legend(True)
        .display_mode(shape.LegendDisplayMode.LIST)
        .placement(shape.LegendPlacement.BOTTOM)
        .calcs([])
    )
    panel.tooltip(common.VizTooltipOptions().mode(shape.TooltipDisplayMode.MULTI).sort(shape.SortOrder.DESCENDING))
    panel.draw_style(shape.GraphDrawStyle.BARS if bars else shape.GraphDrawStyle.LINE).line_width(1)
    panel.color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.PALETTE_CLASSIC))
    panel.fill_opacity(60 if bars or stacked else 0).show_points(shape.VisibilityMode.NEVER)
    panel.thresholds_style(
        common.GraphThresholdsStyleConfig().mode(shape.GraphThresholdsStyleMode.DASHED if steps else shape.GraphThresholdsStyleMode.OFF)
    )
    if stacked:
        panel.stacking(common.StackingConfig().mode(shape.StackingMode.NORMAL).group("A"))
    if least is not None:
        panel.min(least)
    if most is not None:
        panel.max(most)
    return _described(panel, title, description, unit, steps, width, queries)


def number(
    title: str,
    description: str,
    unit: str,
    query: Query,
    *,
    steps: Steps = (),
    width: int = 4,
    names: dict[str, str] | None = None,
    nothing: str | None = None,
) -> stat.Panel:
    """The newest value, large, and in the colour of its step; ``names`` are shown instead of values, ``nothing`` where there is none."""
    panel = stat.Panel().color_mode(shape.BigValueColorMode.BACKGROUND_SOLID if steps else shape.BigValueColorMode.NONE)
    panel.color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
    panel.graph_mode(shape.BigValueGraphMode.AREA)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False).fields(""))
    if names:
        options = {value: model.ValueMappingResult(text=text) for value, text in names.items()}
        panel.mappings([model.ValueMap(options=options)])
    if nothing is not None:
        panel.no_value(nothing)
    return _described(panel, title, description, unit, steps, width, (query,), height=4)


def shades(
    title: str, description: str, unit: str, query: Query, *, axis: str, middle: float | None = None, width: int = 12
) -> heatmap.Panel:
    """A heat map of a histogram's buckets, given as rates by ``le``. With ``middle`` its colours differ to both sides of that value."""
    colours = heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).steps(64).exponent(0.5).fill("dark-orange")
    if middle is None:
        colours.scheme("Oranges").reverse(False)
    else:
        colours.scheme("RdYlBu").reverse(False).min(0).max(2 * middle)
    panel = heatmap.Panel().calculate(False).color(colours).show_legend().cell_gap(1)
    panel.y_axis(heatmap.YAxisConfig().axis_placement(shape.AxisPlacement.LEFT).unit(axis))
    panel.cell_values(heatmap.CellValues().unit(unit)).mode(shape.TooltipDisplayMode.SINGLE).hide_y_histogram()
    panel.filter_values(heatmap.FilterValueRange().le(1e-9))
    panel.rows_frame(heatmap.RowsHeatmapOptions().layout(shape.HeatmapCellLayout.AUTO))
    panel.exemplars_color("rgba(255,0,255,0.7)").show_value(shape.VisibilityMode.NEVER)
    panel.datasource(SOURCE).title(title).description(description).unit(unit).span(width).height(9)
    panel.thresholds(_thresholds(()))
    return panel.with_target(query.target(0).format(PromQueryFormat.HEATMAP))


def rows(
    title: str, description: str, columns: dict[str, tuple[str, str, Steps]], *, keys: Sequence[str], width: int = WHOLE, first: str
) -> table.Panel:
    """A table with a row for each combination of the labels ``keys``.

    ``columns`` are query, unit and steps by the name of the column, of which ``first`` says by which rows are sorted.
    """
    panel = table.Panel().show_header(True).cell_height(shape.TableCellHeight.SM)
    panel.align(shape.FieldTextAlignment.AUTO).cell_options(shape.TableAutoCellOptions()).inspect(False)
    panel.sort_by([common.TableSortByFieldState().display_name(first).desc(True)])
    hidden, named = {"Time": True}, {}
    for place, (name, (query, unit, steps)) in enumerate(columns.items()):
        target = Query(query).target(place)
        panel.with_target(target.instant().format(PromQueryFormat.TABLE))
        value = f"Value #{chr(ord('A') + place)}"
        named[value] = name
        properties: list[tuple[str, object]] = [("unit", unit), ("thresholds", _thresholds(steps).build())]
        if steps:
            properties.append(("custom.cellOptions", {"type": "color-background", "mode": "basic"}))
        panel.override_by_name(name, [model.DynamicConfigValue(id_val=key, value=content) for key, content in properties])
    panel.override_by_name("detector", [model.DynamicConfigValue(id_val="links", value=[TO_DETECTOR])])
    order = {key: place for place, key in enumerate([*keys, *named])}
    panel.with_transformation(model.DataTransformerConfig(id_val="merge", options={}))
    panel.with_transformation(
        model.DataTransformerConfig(id_val="organize", options={"excludeByName": hidden, "indexByName": order, "renameByName": named})
    )
    panel.thresholds(_thresholds(()))
    return panel.datasource(SOURCE).title(title).description(description).unit("short").span(width).height(9)


def board(
    uid: str,
    title: str,
    description: str,
    variables: dict[str, tuple[str, bool]],
    parts: dict[str, list[Panel]],
    *,
    events: dict[str, str] | None = None,
) -> model.Dashboard:
    """A dashboard of rows of panels, by the titles of the rows.

    ``variables`` are, by name, the metric whose label gives the values, with placeholders for the variables before it,
    and whether several values, and all, can be chosen. ``events`` are queries by name: all charts mark the times at which they have values.
    """
    built = dashboard.Dashboard(title).uid(uid).description(description).tags(["farfield"]).timezone("browser").editable()
    built.time("now-1h", "now").refresh("30s").tooltip(model.DashboardCursorSync.CROSSHAIR)
    built.link(dashboard.DashboardLink("farfield").type(model.DashboardLinkType.DASHBOARDS).tags(["farfield"]).keep_time(True))
    built.with_variable(dashboard.DatasourceVariable("datasource").label("data source").type("prometheus"))
    for name, (metric, several) in variables.items():
        query = {"query": f"label_values({asked(metric)}, {LABELS.get(name, name)})", "refId": name}
        variable = (
            dashboard.QueryVariable(name).label(name).datasource(SOURCE).query(query).refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        )
        variable.sort(model.VariableSort.NATURAL_ASC).multi(several).include_all(several).allow_custom_value(False)
        if several:
            variable.all_value(".*").current(model.VariableOption(text="All", value="$__all"))
        built.with_variable(variable)
    for name, text in (events or {}).items():
        built.annotation(dashboard.AnnotationQuery().name(name).datasource(SOURCE).enable(True).icon_color("orange").expr(asked(text)))
    for part, panels in parts.items():
        built.with_row(dashboard.Row(part))
        for panel in panels:
            built.with_panel(panel)
    return _without_defaults(built.build())


def _without_defaults(built: model.Dashboard) -> model.Dashboard:
    """What the library writes although nobody asked, and Grafana's own schema does not know, left out."""
    for variable in built.templating.list_val or []:
        variable.auto = variable.auto_min = variable.auto_count = None
    for panel in built.panels or []:
        if isinstance(panel, model.Panel) and isinstance(panel.options, TableOptions):
            panel.options.footer = None
    return built


def _described(panel: P, title: str, description: str, unit: str, steps: Steps, width: int, queries: Sequence[Query], height: int = 8) -> P:
    panel.datasource(SOURCE).title(title).description(description).unit(unit).thresholds(_thresholds(steps)).span(width).height(height)
    for place, query in enumerate(queries):
        panel.with_target(query.target(place))
    return panel


def _thresholds(steps: Steps) -> dashboard.ThresholdsConfig:
    levels = [model.Threshold(value=None, color="green"), *(model.Threshold(value=value, color=colour) for value, colour in steps)]
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(levels)

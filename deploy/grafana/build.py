"""Grafana's JSON of panels.py: python -m deploy.grafana.build writes deploy/grafana/dashboards/*.json.

The Grafana Foundation SDK, which is generated from Grafana's own schema, makes each object.
"""

from itertools import count
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as shared
from grafana_foundation_sdk.models import dashboard as model

from deploy.grafana.panels import DASHBOARDS, Dashboard, Panel

FOLDER = Path(__file__).parent / "dashboards"
SOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
WIDTH, STAT_WIDTH = 12, 4  # of 24 columns
HEIGHT, STAT_HEIGHT = 8, 4
GREEN, YELLOW, RED = "green", "yellow", "red"


def text(page: Dashboard) -> str:
    """A dashboard's JSON."""
    built = dashboard.Dashboard(page.title).uid(f"roundhouse-{page.name}").description(page.description)
    built = built.tags(["roundhouse", "llm"]).readonly().time("now-1h", "now").refresh("30s").timezone("browser")
    built = built.tooltip(model.DashboardCursorSync.CROSSHAIR).link(
        dashboard.DashboardLink("Roundhouse").type(model.DashboardLinkType.DASHBOARDS).tags(["roundhouse"])
        .as_dropdown(True).keep_time(True)
    )  # fmt: skip
    source = dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
    built = built.with_variable(source)
    for name, (metric, label) in page.variables.items():
        built = built.with_variable(variable(name, metric, label))
    numbers = count(1)
    for title, panels in page.rows.items():
        built = built.with_row(dashboard.Row(title).id(next(numbers)))
        for panel in panels:
            built = built.with_panel(view(panel).id(next(numbers)))
    return JSONEncoder(sort_keys=True, indent=2).encode(built.build()) + "\n"


def variable(name: str, metric: str, label: str) -> Any:
    """A variable with the values of a label; all of them at first."""
    every = model.VariableOption(text="All", value="$__all", selected=True)
    made = dashboard.QueryVariable(name).label(name.capitalize()).datasource(SOURCE)
    made = made.query(f"label_values({metric}, {label})").refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
    made = made.sort(model.VariableSort.ALPHABETICAL_ASC).multi(True).include_all(True).all_value(".*")
    return made.current(every)


def view(panel: Panel) -> Any:
    """The panel as a figure or as curves."""
    made: Any
    if panel.kind == "stat":
        made = stat.Panel().height(STAT_HEIGHT).span(STAT_WIDTH).graph_mode(shared.BigValueGraphMode.AREA)
        made = made.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    else:
        legend = common.VizLegendOptions().display_mode(shared.LegendDisplayMode.TABLE).show_legend(True)
        legend = legend.placement(shared.LegendPlacement.BOTTOM).calcs(["mean", "max", "lastNotNull"])
        made = timeseries.Panel().height(HEIGHT).span(WIDTH).legend(legend)
        made = made.tooltip(common.VizTooltipOptions().mode(shared.TooltipDisplayMode.MULTI))
        made = made.fill_opacity(10).show_points(shared.VisibilityMode.NEVER)
        if panel.warning is not None:
            dashed = shared.GraphTresholdsStyleMode.DASHED
            made = made.thresholds_style(common.GraphThresholdsStyleConfig().mode(dashed))
        if panel.stacked:
            made = made.fill_opacity(30).stacking(common.StackingConfig().mode(shared.StackingMode.NORMAL))
    made = made.title(panel.title).description(panel.description).unit(panel.unit).datasource(SOURCE).min(0)
    made = made.thresholds(dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(thresholds(panel)))
    for number, (legend, expression) in enumerate(panel.queries.items()):
        query = prometheus.Dataquery().expr(expression).legend_format(legend or panel.title).ref_id(chr(65 + number))
        made = made.with_target(query.range().datasource(SOURCE))
    return made


def thresholds(panel: Panel) -> list[Any]:
    """The colours of a panel's values, from the lowest on."""
    if panel.floor is not None:
        return [model.Threshold(value=None, color=RED), model.Threshold(value=panel.floor, color=GREEN)]
    steps = ((None, GREEN), (panel.warning, YELLOW), (panel.critical, RED))
    return [
        model.Threshold(value=bound, color=colour) for bound, colour in steps if bound is not None or colour == GREEN
    ]


if __name__ == "__main__":
    for one in DASHBOARDS:
        (FOLDER / f"{one.name}.json").write_text(text(one), encoding="utf-8")

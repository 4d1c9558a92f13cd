"""Plots of a sweep, rendered as uint8 images [H, W, 3]."""

from collections.abc import Mapping
from collections.abc import Sequence
import statistics
from typing import Any

from matplotlib import figure as figures
from matplotlib import ticker
import numpy as np

from deeplab import visualize

Points = Sequence[tuple[str, float, Sequence[float]]]


def _make_axes(title: str, width: float = 7.0) -> tuple[Any, Any]:
  figure = figures.Figure(figsize=(width, 4.2), dpi=100, layout='constrained')
  axes = figure.subplots()
  axes.set_title(title)
  axes.grid(alpha=0.3)
  axes.spines[['top', 'right']].set_visible(False)
  return figure, axes


def _add_legend(axes: Any) -> None:
  """Adds the legend beside the plot, where it covers no line."""
  axes.legend(
    frameon=False, fontsize=8, loc='center left', bbox_to_anchor=(1.0, 0.5)
  )


def pareto_front(costs: Sequence[float], values: Sequence[float]) -> list[int]:
  """Returns the indices of the Pareto-optimal points, cheapest first."""
  order = sorted(range(len(costs)), key=lambda i: (costs[i], -values[i]))
  best: list[int] = []
  for i in order:
    if not best or values[i] > values[best[-1]]:
      best.append(i)
  return best


def _plot_rows(points: Points, means: Sequence[float]) -> np.ndarray:
  """Plots mIoU, one row per setting."""
  figure, axes = _make_axes('mIoU at equal operations (red: the base)')
  for i, (_, _, values) in enumerate(points):
    axes.plot([100 * min(values), 100 * max(values)], [i] * 2, color='0.7')
    axes.plot(means[i], i, 'o', color='C3' if i == 0 else 'C0')
  axes.set_yticks(range(len(points)), [name for name, *_ in points])
  axes.invert_yaxis()
  axes.set_xlabel('mIoU, %')
  return visualize.render_figure(figure)


def plot_pareto(points: Points) -> np.ndarray:
  """Plots mIoU over MACs with the range over seeds and the Pareto front.

  If all settings cost the same, each gets a row instead.

  Returns uint8 [H, W, 3].

  Args:
    points: (name, GMACs, mIoU of each seed), the baseline first.
  """
  costs = [cost for _, cost, _ in points]
  means = [100 * statistics.fmean(values) for *_, values in points]
  if max(costs) == min(costs):
    return _plot_rows(points, means)
  figure, axes = _make_axes(
    'mIoU over operations (line: the Pareto front; red: the base)'
  )
  for i, (name, cost, values) in enumerate(points):
    axes.plot([cost] * 2, [100 * min(values), 100 * max(values)], color='0.7')
    axes.plot(cost, means[i], 'o', color='C3' if i == 0 else 'C0')
    axes.annotate(
      name,
      (cost, means[i]),
      textcoords='offset points',
      xytext=(5, 4 if i % 2 == 0 else -11),
      fontsize=8,
    )
  best = pareto_front(costs, means)
  axes.plot(
    [costs[i] for i in best], [means[i] for i in best], color='C0', zorder=0
  )
  if max(costs) > 4 * min(costs):
    axes.set_xscale('log')
    for use in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
      use(ticker.FormatStrFormatter('%g'))
    axes.tick_params(axis='x', which='both', labelsize=8)
  axes.margins(x=0.15)
  axes.set_xlabel('GMACs an image')
  axes.set_ylabel('mIoU, %')
  return visualize.render_figure(figure)


def plot_learning_curves(
  series: Mapping[str, Sequence[Sequence[tuple[int, float]]]],
) -> np.ndarray:
  """Plots mIoU over steps, one color per setting and one line per seed.

  Returns uint8 [H, W, 3].

  Args:
    series: name of a setting -> for each seed its (step, mIoU) pairs in order.
  """
  figure, axes = _make_axes('mIoU over steps')
  for i, (name, lines) in enumerate(series.items()):
    for j, line in enumerate(lines):
      axes.plot(
        [step for step, _ in line],
        [100 * miou for _, miou in line],
        color=f'C{i % 10}',
        linestyle=('-', '--', ':')[i // 10 % 3],
        marker='o',
        ms=3,
        alpha=0.8,
        label=name if j == 0 else None,
      )
  _add_legend(axes)
  axes.set_xlabel('step')
  axes.set_ylabel('mIoU, %')
  return visualize.render_figure(figure)


def plot_class_iou(
  names: Sequence[str], shares: Mapping[str, Sequence[Sequence[float]]]
) -> np.ndarray:
  """Plots the IoU of each class, one bar per setting.

  Returns uint8 [H, W, 3].

  Args:
    names: class names.
    shares: name of a setting -> for each class its IoU by seed; empty where the
      class was absent.
  """
  width = max(7.0, 0.12 * len(names) * len(shares))
  figure, axes = _make_axes('IoU by class, mean over seeds', min(width, 40.0))
  thick = 0.8 / len(shares)
  for i, (name, values) in enumerate(shares.items()):
    means = [100 * statistics.fmean(v) if v else np.nan for v in values]
    places = np.arange(len(names)) + (i - (len(shares) - 1) / 2) * thick
    axes.bar(places, means, thick, label=name)
  axes.set_xticks(range(len(names)), names, rotation=60, ha='right', fontsize=8)
  axes.set_ylabel('IoU, %')
  _add_legend(axes)
  return visualize.render_figure(figure)

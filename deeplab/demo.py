"""Serves a page in the browser to try a model on your own images.

    python -m deeplab.demo --workdir=W
    python -m deeplab.demo --workdir=W --tflite=exports/int8.tflite

Upload an image or take one with the webcam. The page shows the class colors
over it, the latency, and a legend. With --workdir and --tflite it shows
checkpoint and exported file side by side, and the share of pixels on which they
agree.

Only this machine can open the page; --host=0.0.0.0 opens it to the network.

The page needs Gradio, which no other part of the project uses:

    pip install -r notebooks/requirements.txt
"""

from collections.abc import Sequence
import dataclasses
import os
import time
from typing import Any

from absl import app
from absl import flags
import numpy as np

from deeplab import cli
from deeplab import predict
from deeplab import visualize
from deeplab.data import image_format


@dataclasses.dataclass(frozen=True)
class TimedPrediction:
  """Prediction of one model for one image, and its latency.

  Attributes:
    name: of the model.
    ids: uint8 [H, W], class ids.
    milliseconds: latency without compilation.
  """

  name: str
  ids: np.ndarray
  milliseconds: float


def load_segmenters(workdir: str | None, tflite: str | None) -> dict[str, Any]:
  """Loads the models to compare.

  Args:
    workdir: work directory of a run, for its best checkpoint; or None.
    tflite: an exported file; or None.

  Returns:
    A `predict.Segmenter` by name, for each that is given.

  Raises:
    ValueError: neither is given, their classes differ, or a model does not take
      8-bit RGB images.
    FileNotFoundError: `workdir` holds no run or no checkpoint.
  """
  segmenters = {}
  if workdir:
    segmenters['checkpoint'] = predict.from_workdir(workdir)
  if tflite:
    segmenters[os.path.basename(tflite)] = predict.from_tflite(tflite)
  if not segmenters:
    raise ValueError('--workdir or --tflite is required; see --help')
  if len({s.class_names for s in segmenters.values()}) > 1:
    raise ValueError(
      f'{tflite} has other classes than the run in {workdir}: give a file '
      'that was exported from this run'
    )
  for name, segmenter in segmenters.items():
    if segmenter.image_spec != image_format.RGB:
      raise ValueError(
        f'{name} takes images of {segmenter.image_spec}, and browsers have '
        '8-bit RGB only: use python -m deeplab.predict'
      )
  return segmenters


def time_predictions(
  segmenters: dict[str, predict.Segmenter],
  image: np.ndarray,
  compiled_shapes: set[tuple[int, ...]],
) -> list[TimedPrediction]:
  """Segments an image with every model and measures the latency.

  Args:
    segmenters: models by name.
    image: uint8 [H, W, 3].
    compiled_shapes: shapes that are compiled. An image of a new shape is
      segmented twice, because the first run compiles; its shape is added.
  """
  predictions = []
  for name, segmenter in segmenters.items():
    if image.shape not in compiled_shapes:
      segmenter.predict(image)
    start = time.perf_counter()
    ids = segmenter.predict(image)
    predictions.append(
      TimedPrediction(name, ids, 1e3 * (time.perf_counter() - start))
    )
  compiled_shapes.add(image.shape)
  return predictions


def summarize_predictions(predictions: Sequence[TimedPrediction]) -> str:
  """Formats latencies and, for two models, the share of equal pixels."""
  parts = [f'{p.name}: {p.milliseconds:.0f} ms' for p in predictions]
  if len(predictions) == 2:
    equal = np.mean(predictions[0].ids == predictions[1].ids)
    parts.append(f'same class on {100 * equal:.1f}% of the pixels')
  return ', '.join(parts)


def import_gradio() -> Any:
  """Imports Gradio; raises ValueError if it is not installed."""
  try:
    import gradio as gr
  except ImportError:
    raise ValueError(
      'the page needs Gradio: pip install -r notebooks/requirements.txt'
    ) from None
  return gr


def build_page(segmenters: dict[str, predict.Segmenter]) -> Any:
  """Builds the page.

  Args:
    segmenters: models by name, shown from left to right.

  Returns:
    A `gradio.Blocks`; its `launch` serves the page.

  Raises:
    ValueError: Gradio is not installed.
  """
  gr = import_gradio()
  first = next(iter(segmenters.values()))
  palette = first.palette
  compiled_shapes: set[tuple[int, ...]] = set()

  def draw(state, opacity):
    """Returns one overlay per model of the image in the page's state."""
    if state is None:
      return [None] * len(segmenters)
    image, predictions = state
    return [
      visualize.draw_overlay(image, p.ids, palette, opacity)
      for p in predictions
    ]

  def segment(path, opacity):
    """Returns the page's new state, the summary and the overlays."""
    if path is None:
      return None, '', *draw(None, opacity)
    image = predict.read_image(path, image_format.RGB)
    predictions = time_predictions(segmenters, image, compiled_shapes)
    state = image, predictions
    return state, summarize_predictions(predictions), *draw(state, opacity)

  with gr.Blocks(
    title='deeplab',
    analytics_enabled=False,
    delete_cache=(3600, 3600),  # uploads are deleted after an hour
  ) as blocks:
    state = gr.State()
    with gr.Row():
      photo = gr.Image(
        label='picture',
        type='filepath',
        sources=['upload', 'webcam', 'clipboard'],
        elem_id='photo',
      )
      overlays = [
        gr.Image(
          label=name,
          format='png',
          interactive=False,
          buttons=['download', 'fullscreen'],
          elem_id=f'overlay{i}',
        )
        for i, name in enumerate(segmenters)
      ]
    summary = gr.Markdown(elem_id='summary')
    opacity = gr.Slider(
      0, 1, 0.5, step=0.05, label='opacity of the classes', elem_id='opacity'
    )
    gr.Image(
      visualize.draw_legend(first.class_names, palette, 800),
      format='png',
      show_label=False,
      interactive=False,
      buttons=[],
      elem_id='legend',
    )
    photo.change(segment, [photo, opacity], [state, summary, *overlays])
    opacity.release(draw, [state, opacity], overlays)
  return blocks


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the command's flags; importing this module defines none."""
  flags.DEFINE_string(
    'workdir',
    None,
    'Work directory of a run; its best checkpoint predicts.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'tflite',
    None,
    'Exported file, .tflite or .onnx, to show alone or beside the checkpoint.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'host',
    '127.0.0.1',
    'Address to serve the page on; 0.0.0.0 opens it to the network.',
    flag_values=values,
  )
  flags.DEFINE_integer(
    'port', 7860, 'Port to serve the page on.', flag_values=values
  )


def _run(values: flags.FlagValues) -> None:
  import_gradio()  # fail before the models are loaded, which takes seconds
  build_page(load_segmenters(values.workdir, values.tflite)).launch(
    server_name=values.host,
    server_port=values.port,
    share=False,
    show_error=True,
    ssr_mode=False,
  )


def main(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> None:
  """Serves the page until it is interrupted."""
  cli.run_command(argv, lambda: _run(values))


if __name__ == '__main__':
  define_flags()
  app.run(main, flags_parser=cli.parse_flags)

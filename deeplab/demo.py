"""A page in the browser to try a model on your own pictures.

    python -m deeplab.demo --workdir=W
    python -m deeplab.demo --workdir=W --tflite=exports/int8.tflite

Upload a picture or take one with the webcam: the page shows the classes over
it, as `deeplab.predict` draws them, how long that took, and the legend; with
--tflite the exported file beside the checkpoint, and on how many pixels the
two agree. The page is served on this machine alone; --host=0.0.0.0 shows it to
the network.

It needs Gradio, which nothing else does:

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
  """What one model says of a picture.

  Attributes:
    name: of the model.
    ids: uint8 [H, W].
    milliseconds: it took, compilation left out.
  """

  name: str
  ids: np.ndarray
  milliseconds: float


def load_segmenters(workdir: str | None, tflite: str | None) -> dict[str, Any]:
  """Returns the `predict.Segmenter`s to compare, by name.

  Args:
    workdir: of a run, for its best checkpoint.
    tflite: an exported file.

  Raises:
    ValueError: neither is given, they have different classes, or the model
      takes no RGB pictures.
    FileNotFoundError: see `predict.from_workdir`.
  """
  segmenters = {}
  if workdir:
    segmenters['checkpoint'] = predict.from_workdir(workdir)
  if tflite:
    segmenters[os.path.basename(tflite)] = predict.from_tflite(tflite)
  if not segmenters:
    raise ValueError('--workdir or --tflite is needed; see --help')
  if len({s.class_names for s in segmenters.values()}) > 1:
    raise ValueError(
      f'{tflite} has other classes than the run in {workdir}: give the file '
      'that was exported from it'
    )
  for name, segmenter in segmenters.items():
    if segmenter.image_spec != image_format.RGB:
      raise ValueError(
        f'the {name} takes images of {segmenter.image_spec}, which no browser '
        'has: use python -m deeplab.predict'
      )
  return segmenters


def time_predictions(
  segmenters: dict[str, predict.Segmenter],
  image: np.ndarray,
  compiled_shapes: set[tuple[int, ...]],
) -> list[TimedPrediction]:
  """Asks every model, and measures.

  Args:
    segmenters: by name.
    image: uint8 [H, W, 3].
    compiled_shapes: shapes that were asked before; a new one is asked twice, as
      the first answer waits for the compiler. The shape is added.
  """
  answers = []
  for name, segmenter in segmenters.items():
    if image.shape not in compiled_shapes:
      segmenter.predict(image)
    began = time.perf_counter()
    ids = segmenter.predict(image)
    answers.append(
      TimedPrediction(name, ids, 1e3 * (time.perf_counter() - began))
    )
  compiled_shapes.add(image.shape)
  return answers


def summarize_predictions(answers: Sequence[TimedPrediction]) -> str:
  """Returns latencies, and of two models the share of equal pixels."""
  parts = [f'{a.name}: {a.milliseconds:.0f} ms' for a in answers]
  if len(answers) == 2:
    equal = np.mean(answers[0].ids == answers[1].ids)
    parts.append(f'same class on {100 * equal:.1f}% of the pixels')
  return ', '.join(parts)


def import_gradio() -> Any:
  """Returns the module; ValueError where it is not installed."""
  try:
    import gradio as gr
  except ImportError:
    raise ValueError(
      'the page needs Gradio: pip install -r notebooks/requirements.txt'
    ) from None
  return gr


def build_page(segmenters: dict[str, predict.Segmenter]) -> Any:
  """Returns the page, a `gradio.Blocks` to `launch`.

  Raises:
    ValueError: Gradio is not installed.
  """
  gr = import_gradio()
  first = next(iter(segmenters.values()))
  palette = first.palette
  seen: set[tuple[int, ...]] = set()

  def draw(asked, opacity):
    if asked is None:
      return [None] * len(segmenters)
    image, answers = asked
    return [
      visualize.draw_overlay(image, a.ids, palette, opacity) for a in answers
    ]

  def answer(path, opacity):
    if path is None:
      return None, '', *draw(None, opacity)
    image = predict.read_image(path, image_format.RGB)
    answers = time_predictions(segmenters, image, seen)
    asked = image, answers
    return asked, summarize_predictions(answers), *draw(asked, opacity)

  with gr.Blocks(
    title='deeplab',
    analytics_enabled=False,
    delete_cache=(3600, 3600),  # pictures are forgotten after an hour
  ) as blocks:
    asked = gr.State()
    with gr.Row():
      photo = gr.Image(
        label='picture',
        type='filepath',
        sources=['upload', 'webcam', 'clipboard'],
        elem_id='photo',
      )
      drawn = [
        gr.Image(
          label=name,
          format='png',
          interactive=False,
          buttons=['download', 'fullscreen'],
          elem_id=f'overlay{i}',
        )
        for i, name in enumerate(segmenters)
      ]
    said = gr.Markdown(elem_id='said')
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
    photo.change(answer, [photo, opacity], [asked, said, *drawn])
    opacity.release(draw, [asked, opacity], drawn)
  return blocks


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the command's flags; importing this module defines none."""
  flags.DEFINE_string(
    'workdir', None, 'Work directory of a run.', flag_values=values
  )
  flags.DEFINE_string(
    'tflite', None, 'Exported file to show beside it.', flag_values=values
  )
  flags.DEFINE_string(
    'host', '127.0.0.1', 'Address to serve the page on.', flag_values=values
  )
  flags.DEFINE_integer('port', 7860, 'Its port.', flag_values=values)


def _run(values: flags.FlagValues) -> None:
  import_gradio()  # before a model is loaded for nothing
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

"""Serves a page in the browser to try a model on your own images.

    python -m deeplab.demo --weights=runs/mine
    python -m deeplab.demo --weights=runs/mine --weights=exports/int8.tflite

Upload an image or take one with the webcam. The page shows the class colors
over it, the latency, and a legend. Two models, such as a run and the file that
was exported from it, are shown side by side, with the share of pixels on which
they agree.

Only this machine can open the page; --host=0.0.0.0 opens it to the network.
Visitors take turns: one picture is segmented at a time, --max_waiting others
wait and see their place, and who comes after them reads that the page is busy.
Uploads are limited in bytes (--max_upload_mib) and, by their headers and before
they are decoded, in pixels (--max_megapixels). A checkpoint computes pictures
of more than four megapixels in sliding windows, an exported file at its size.

The page needs Gradio, which no other part of the project uses:

    pip install -r notebooks/requirements.txt
"""

from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import MutableMapping
from collections.abc import Sequence
import dataclasses
import io
import os
import pathlib
import time
from typing import Any

from absl import app
from absl import flags
import numpy as np
from PIL import Image

from deeplab import cli
from deeplab import predict
from deeplab import text
from deeplab import visualize
from deeplab.data import image_folder
from deeplab.data import image_format
from deeplab.data.preparation import raw_files

# A checkpoint computes larger pictures in windows: whole, a ResNet-101 takes
# about 1 KiB a pixel.
WHOLE_PIXELS = 4 * 1024**2

# What browsers show. Pillow reads others too, some by external programs.
_PICTURE_FORMATS = ('JPEG', 'PNG', 'WEBP', 'BMP', 'GIF', 'TIFF')

# Bytes of an upload beside the file itself: boundaries and field names.
_FORM_BYTES = 64 * 1024

# The messages of ASGI.
_Message = MutableMapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Limits:
  """Limits of what visitors can make the page do.

  Attributes:
    upload_bytes: size of a picture's file.
    pixels: of a picture.
    waiting: pictures that wait while another one is segmented.
  """

  upload_bytes: int
  pixels: int
  waiting: int


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


def load_segmenters(weights: Sequence[str]) -> dict[str, Any]:
  """Loads the models to compare.

  Args:
    weights: one or two models, each anything that `predict.load_segmenter`
      takes.

  Returns:
    A `predict.Segmenter` by name, for each that is given.

  Raises:
    ValueError: none or too many are given, their classes differ, or a model
      does not take 8-bit RGB images.
    OSError: a model cannot be read.
  """
  if not 1 <= len(weights) <= 2:
    raise ValueError(
      '--weights is required, once, or twice to compare two models; see --help'
    )
  segmenters = {}
  for name in weights:
    segmenter = predict.load_segmenter(name, max_pixels=WHOLE_PIXELS)
    label = os.path.basename(os.path.normpath(name))
    if segmenter.trained is not None and os.path.isdir(name):
      label = f'checkpoint {label}'
    segmenters[name if label in segmenters else label] = segmenter
  if len({s.class_names for s in segmenters.values()}) > 1:
    raise ValueError(
      f'{weights[1]} has other classes than {weights[0]}: compare models of '
      'the same classes'
    )
  for name, segmenter in segmenters.items():
    if segmenter.image_spec != image_format.RGB:
      raise ValueError(
        f'{name} takes images of {segmenter.image_spec}, and browsers have '
        '8-bit RGB only: use python -m deeplab.predict'
      )
  return segmenters


def read_picture(path: str | os.PathLike, max_pixels: int) -> np.ndarray:
  """Reads an uploaded picture, if its header says that it is small enough.

  Args:
    path: the file.
    max_pixels: largest number of pixels that is decoded.

  Returns:
    uint8 [H, W, 3].

  Raises:
    ValueError: the picture is too large, damaged, or of another format; the
      message names the file without its folder, which is the server's.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise ValueError(f'there is no picture {path.name!r} (any more): upload it')
  try:
    with Image.open(path, formats=_PICTURE_FORMATS) as header:
      width, height = header.size
  except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
    raise ValueError(
      f'{path.name} is not a picture that this page reads, or damaged or too '
      f'large: upload {", ".join(_PICTURE_FORMATS[:-1])} or '
      f'{_PICTURE_FORMATS[-1]}'
    ) from None
  if width * height > max_pixels:
    raise ValueError(
      f'{path.name} has {width}x{height} pixels, and this page takes '
      f'{max_pixels / 1e6:g} megapixels at most: upload a smaller picture, or '
      'use python -m deeplab.predict'
    )
  try:
    return image_folder.read_image(path, image_format.RGB)
  except ValueError as error:
    raise ValueError(str(error).replace(str(path), path.name)) from None


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
      segmented twice, because the first run compiles; its shape is added. One
      of more than `WHOLE_PIXELS` is segmented once: its windows take longer
      than their compilation.
  """
  predictions = []
  is_large = image.shape[0] * image.shape[1] > WHOLE_PIXELS
  for name, segmenter in segmenters.items():
    if image.shape not in compiled_shapes and not is_large:
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
  parts = [
    f'{text.escape_markdown(p.name)}: {p.milliseconds:.0f} ms'
    for p in predictions
  ]
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


class BodyLimit:
  """ASGI middleware that refuses large requests before reading them."""

  def __init__(self, app: Callable[..., Awaitable[None]], max_bytes: int):
    """Wraps an application.

    Args:
      app: the application.
      max_bytes: largest body of a request.
    """
    self._app = app
    self._max_bytes = max_bytes

  async def __call__(
    self,
    scope: _Message,
    receive: Callable[[], Awaitable[_Message]],
    send: Callable[[_Message], Awaitable[None]],
  ) -> None:
    """Answers 411 without a length, 413 above the limit, or calls the app."""
    is_request = scope['type'] == 'http'
    headers = dict(scope['headers']) if is_request else {}
    refusal = self._refuse(headers)
    if refusal is None:
      await self._app(scope, receive, send)
      return
    status, sentence = refusal
    # Most clients read no answer before they have sent all.
    if status == 413 and int(headers[b'content-length']) < 8 * self._max_bytes:
      while (await receive()).get('more_body'):
        pass
    start = {
      'type': 'http.response.start',
      'status': status,
      'headers': [
        (b'content-type', b'text/plain; charset=utf-8'),
        (b'connection', b'close'),
      ],
    }
    await send(start)
    await send({'type': 'http.response.body', 'body': sentence.encode()})

  def _refuse(self, headers: dict[bytes, bytes]) -> tuple[int, str] | None:
    """Returns (status, sentence) for a request that is refused, else None."""
    if b'transfer-encoding' in headers:
      return 411, 'the request has no Content-Length: send one\n'
    length = int(headers.get(b'content-length', b'0'))  # checked by the server
    if length > self._max_bytes:
      return 413, (
        f'the request has {length} bytes, and this page takes '
        f'{self._max_bytes} at most: upload a smaller file\n'
      )
    return None


def limit_requests(limits: Limits) -> dict[str, Any]:
  """Returns arguments of Gradio's `launch` that limit the size of requests."""
  from starlette import middleware

  limit = middleware.Middleware(
    BodyLimit, max_bytes=limits.upload_bytes + _FORM_BYTES
  )
  return {
    'max_file_size': limits.upload_bytes,
    'app_kwargs': {'middleware': [limit]},
  }


def _refuse_addresses(
  move: Callable[[str], Awaitable[str]],
) -> Callable[[str], Awaitable[str]]:
  """Wraps Gradio's move of an upload, which also downloads from addresses."""

  async def move_upload(path: str) -> str:
    if not os.path.isabs(path):
      raise ValueError('upload the picture: this page opens no addresses')
    return await move(path)

  return move_upload


def _uploaded_path(payload: Any) -> str | None:
  """Returns the path of an upload, which Gradio has checked, undecoded."""
  return None if payload is None else payload.path or ''


def build_page(segmenters: dict[str, predict.Segmenter], limits: Limits) -> Any:
  """Builds the page, with its queue.

  The state of a visitor holds the path of the picture and its masks as PNG, a
  few KiB, since Gradio keeps states for an hour.

  Args:
    segmenters: models by name, shown from left to right.
    limits: of pictures, and of the queue.

  Returns:
    A `gradio.Blocks`; its `launch` serves the page.

  Raises:
    ValueError: Gradio is not installed.
  """
  gr = import_gradio()
  first = next(iter(segmenters.values()))
  palette = first.palette
  compiled_shapes: set[tuple[int, ...]] = set()

  def read(path):
    """Reads a picture; an error is one sentence on the page."""
    try:
      return read_picture(path, limits.pixels)
    except ValueError as error:
      raise gr.Error(str(error), print_exception=False) from None

  def draw(state, opacity):
    """Returns one overlay per model of the image in the page's state."""
    if state is None:
      return [None] * len(segmenters)
    path, masks = state
    image = read(path)
    return [
      visualize.draw_overlay(
        image, np.asarray(Image.open(io.BytesIO(mask))), palette, opacity
      )
      for mask in masks
    ]

  def segment(path, opacity):
    """Returns the page's new state, the summary and the overlays."""
    if path is None:
      return None, '', *draw(None, opacity)
    image = read(path)
    predictions = time_predictions(segmenters, image, compiled_shapes)
    state = path, [raw_files.encode_png(p.ids) for p in predictions]
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
      # Gradio's own would decode the picture before its header is checked.
      photo.preprocess = _uploaded_path
      photo.async_move_resource_to_block_cache = _refuse_addresses(
        photo.async_move_resource_to_block_cache
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
    photo.change(
      segment,
      [photo, opacity],
      [state, summary, *overlays],
      api_name='segment',
      concurrency_limit=1,
    )
    opacity.release(
      draw, [state, opacity], overlays, api_name='draw', concurrency_limit=1
    )
  # Without a queue a visitor of the open routes would pass all others.
  return blocks.queue(max_size=limits.waiting, api_open=False)


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the command's flags; importing this module defines none."""
  flags.DEFINE_multi_string(
    'weights',
    [],
    'Model to show: the work directory of a run, an exported file, a published '
    'name, or whatever python -m deeplab.predict takes. Given twice, the page '
    'compares two models.',
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
  flags.DEFINE_float(
    'max_megapixels',
    25.0,
    'Largest picture, in millions of pixels.',
    lower_bound=0.001,
    flag_values=values,
  )
  flags.DEFINE_float(
    'max_upload_mib',
    32.0,
    'Largest file of a picture, in MiB.',
    lower_bound=0.001,
    flag_values=values,
  )
  flags.DEFINE_integer(
    'max_waiting',
    8,
    'Pictures that wait while one is segmented; later ones are refused.',
    lower_bound=1,
    flag_values=values,
  )


def _run(values: flags.FlagValues) -> None:
  import_gradio()  # fail before the models are loaded, which takes seconds
  limits = Limits(
    int(values.max_upload_mib * 1024**2),
    int(values.max_megapixels * 1e6),
    values.max_waiting,
  )
  segmenters = load_segmenters(values.weights)
  build_page(segmenters, limits).launch(
    server_name=values.host,
    server_port=values.port,
    share=False,
    show_error=True,
    ssr_mode=False,
    **limit_requests(limits),
  )


def main(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> None:
  """Serves the page until it is interrupted."""
  cli.run_command(argv, lambda: _run(values))


if __name__ == '__main__':
  define_flags()
  app.run(main, flags_parser=cli.parse_flags)

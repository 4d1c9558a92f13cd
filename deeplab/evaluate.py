"""Evaluation of anything that segments images, over a whole split.

Every pixel of every image counts once, at the label's own resolution. Images
are padded to run in batches, and what was padding is cut off again before
anything is counted. What is counted are integers: hosts that each evaluated a
share of the split add them up and divide once.
"""

from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import functools
import os
import pathlib
import re
from typing import Any

from absl import logging
import jax
from ml_collections import ConfigDict
import numpy as np

from deeplab import metrics
from deeplab import networks
from deeplab import parallel
from deeplab import system
from deeplab import text
from deeplab import visualize
from deeplab import workdir as workdir_lib
from deeplab.data import dataset_info
from deeplab.data import datasets
from deeplab.data import image_format
from deeplab.data import resize
from deeplab.inference import file_predictor
from deeplab.inference import load
from deeplab.inference import predictors
from deeplab.inference import views

Counts = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Sample:
  """One evaluated image, [H, W, C] as it is, and uint8 ids [H, W] twice."""

  name: str
  image: np.ndarray
  label: np.ndarray
  prediction: np.ndarray


@dataclasses.dataclass(frozen=True)
class Result:
  """What an evaluation found.

  Attributes:
    metrics: see `metrics.compute_scores`; NaN where a class is absent.
    confusion: int64 [K, K], rows = label, columns = prediction.
    boundary: int64 [2, K], intersections and unions of boundary bands.
    examples: number of images.
    samples: the first few of this host's images, to look at.
  """

  metrics: dict[str, float]
  confusion: np.ndarray
  boundary: np.ndarray
  examples: int
  samples: tuple[Sample, ...] = ()


def _group_by_padded_size(
  examples: Iterable[dict], predictor: predictors.Predictor, config: Any
) -> Iterator[list[dict]]:
  """Groups examples that run together: one padded size, up to a batch."""
  waiting: dict[Any, list[dict]] = {}
  for example in examples:
    key = predictor.input_size or views.padded_size(
      example['image'].shape, config
    )
    group = waiting.setdefault(key, [])
    group.append(example)
    if len(group) == config.batch_size:
      yield waiting.pop(key)
  yield from waiting.values()


def _resize_example(
  example: dict, size: tuple[int, int] | None, frame: Sequence[int]
) -> dict:
  """Returns an example, its label too, at the size that is computed at.

  Args:
    example: with 'image' and 'label'.
    size: (H, W); None fits the image into `frame` (see `views.view_size`).
    frame: (long, short), or ().
  """
  image = example['image']
  size = size or views.view_size(image.shape, frame, 1.0)
  levels = np.rint(resize.resize_bilinear(image, size))
  return example | {
    'image': levels.astype(image.dtype),
    'label': resize.resize_nearest(example['label'], size),
  }


def evaluate_predictor(
  predictor: predictors.Predictor,
  examples: Iterable[dict],
  info: dataset_info.DatasetInfo,
  protocol: Any,
  *,
  total: int | None = None,
  keep_samples: int = 0,
  loss_terms: Sequence[str] = ('cross_entropy',),
  sum_counts: Callable[[Counts], Counts] = lambda counts: counts,
) -> Result:
  """Scores a predictor on a split.

  Args:
    predictor: see `predictors`.
    examples: {'image': uint8 or uint16 [H, W, C], 'label': uint8 [H, W],
      'name': str}, this host's share of the split. Labels are train ids, 255 is
      ignored.
    info: the data set: how many classes and their names.
    protocol: `config.eval`: batch_size, mode (see `inference.MODES`), window,
      stride, static_size, fit, resize_labels, scales, flip, pad_multiple,
      pad_offset, boundary_share, loss.
    total: how many examples come, for the progress bar.
    keep_samples: how many of the first images to keep in the result.
    loss_terms: `config.loss.terms` of the run: where `sigmoid_cross_entropy` is
      one of them, `loss` is that, else the cross entropy of the softmax.
    sum_counts: adds int64 arrays, by name, over the hosts; called once, at the
      end. The default is for one host.

  Raises:
    ValueError: there are no examples, a label is of another size than its
      image or holds a value that is no class, or the protocol asks what the
      predictor cannot do.
  """
  predictor = views.apply_mode(predictor, protocol)
  views.check_eval_config(predictor, protocol)
  if protocol.resize_labels:
    size, frame = predictor.input_size, protocol.fit
    examples = (_resize_example(x, size, frame) for x in examples)
    protocol = ConfigDict(protocol)
    with protocol.unlocked():
      protocol.fit = ()
  confusion = metrics.ConfusionMatrix(info.num_classes)
  boundary = metrics.BoundaryIoU(info.num_classes, protocol.boundary_share)
  images = metrics.ImageIoU()
  loss = metrics.CrossEntropy(sigmoid='sigmoid_cross_entropy' in loss_terms)
  ask = views.predict_logits if loss.sigmoid else views.predict_probabilities
  kept: dict[int, Sample] = {}
  count = 0
  numbered = (dict(x, number=i) for i, x in enumerate(examples))
  batches = _group_by_padded_size(numbered, predictor, protocol)
  for batch in system.track_progress(batches, total, 'evaluate', size=len):
    pictures = [x['image'] for x in batch]
    scores: list = [None] * len(batch)
    if protocol.loss:
      scores = ask(predictor, pictures, protocol)
      predictions = [predictors.argmax(x) for x in scores]
    else:
      predictions = views.segment_images(predictor, pictures, protocol)
    for example, prediction, likely in zip(
      batch, predictions, scores, strict=True
    ):
      label = example['label']
      try:
        images.add(confusion.add(label, prediction))
      except ValueError as error:
        raise ValueError(f'{example["name"]}: {error}') from None
      boundary.add(label, prediction)
      if likely is not None:
        loss.add(label, likely)
      count += 1
      if example['number'] < keep_samples:
        kept[example['number']] = Sample(
          example['name'], example['image'], label, prediction
        )
  counts = sum_counts(
    {
      'confusion': confusion.matrix,
      'boundary': boundary.counts,
      'images': images.counts,
      'loss': loss.counts,
      'examples': np.array(count, np.int64),
    }
  )
  if not counts['examples']:
    raise ValueError(
      f'the evaluation split of {info.name} is empty: nothing to score'
    )
  return Result(
    metrics.compute_scores(
      counts['confusion'],
      info.class_names,
      counts['boundary'],
      counts['images'],
      info.unscored,
      counts['loss'] if protocol.loss else None,
    ),
    counts['confusion'],
    counts['boundary'],
    int(counts['examples']),
    tuple(kept[i] for i in sorted(kept)),
  )


def summarize_result(result: Result) -> str:
  """Returns the main metrics in one line."""
  names = ('miou', 'pixel_accuracy', 'mean_accuracy', 'boundary_iou')
  numbers = ', '.join(f'{name} {result.metrics[name]:.4f}' for name in names)
  return f'{numbers} ({text.plural(result.examples, "image")})'


def write_result(
  result: Result, directory: str | os.PathLike, info: dataset_info.DatasetInfo
) -> None:
  """Writes metrics.json, confusion.json and confusion.png to a directory.

  A class that is absent from labels and predictions has null for its scores.
  """
  directory = pathlib.Path(directory)
  tables = {
    'metrics.json': {'examples': result.examples, **result.metrics},
    'confusion.json': {
      'rows': 'label',
      'columns': 'prediction',
      'class_names': list(info.class_names),
      'confusion': result.confusion,
      'boundary_intersection': result.boundary[0],
      'boundary_union': result.boundary[1],
    },
  }
  for name, table in tables.items():
    system.write_json(directory / name, table)
  visualize.save_image(
    visualize.plot_confusion_matrix(result.confusion, info.class_names),
    directory / 'confusion.png',
  )


def checkpoint_predictor(
  loaded: workdir_lib.TrainedModel, output_stride: int = 0
) -> predictors.FlaxPredictor:
  """Returns the predictor of a run's checkpoint.

  Args:
    loaded: the run.
    output_stride: see `config.eval`; 0 for the one that was trained.
  """
  config, classes = loaded.config, loaded.dataset.info.num_classes
  variables = networks.eval_variables(config, classes, loaded.variables)
  return predictors.build_flax_predictor(
    config, classes, variables, output_stride=output_stride
  )


def single_view_config(config: Any) -> Any:
  """Returns `config.eval` with one view of whole images.

  It is how an exported file, which has one size, and the model that it is
  compared with are scored.
  """
  changed = ConfigDict(config)
  with changed.unlocked():
    changed.update(
      {
        'mode': 'whole',
        'fit': (),
        'scales': (1.0,),
        'flip': False,
        'loss': False,
        'output_stride': 0,
      }
    )
  return changed


def _override_eval_and_data(
  config: ConfigDict, other: ConfigDict | None, overrides: Collection[str]
) -> ConfigDict:
  """Returns a run's config with `eval` and `data` of another.

  Of the same data set the run's own fields stay, but for those that are given.
  The kind of images and their normalisation stay: the weights expect them.
  """
  if other is None:
    return config
  changed = config.copy_and_resolve_references()
  with changed.unlocked():
    changed.eval = other.eval
    if other.data.name == config.data.name:
      changed.update_from_flattened_dict(
        {
          name: functools.reduce(
            lambda x, part: x[part], name.split('.'), other
          )
          for name in overrides
          if name.startswith('data.')
        }
      )
      changed = datasets.resolve_config(changed)
    else:
      changed.data = ConfigDict(datasets.resolve_config(other).data)
    with changed.data.unlocked():
      changed.data.mean, changed.data.std = config.data.mean, config.data.std
      changed.data.depth = image_format.image_spec(config.data).depth
  return changed


def _protocol_suffix(config: ConfigDict, run: ConfigDict) -> str:
  """Returns what of a protocol is not the run's own, to name its results by."""
  name = ''
  if config.data.name != run.data.name:
    name += f'_{config.data.name}'
  if config.data.eval_split != run.data.eval_split:
    name += f'_{config.data.eval_split}'
  if config.eval.mode != run.eval.mode:
    name += f'_{config.eval.mode}'
  if tuple(config.eval.scales) != tuple(run.eval.scales):
    name += '_x' + '_'.join(f'{scale:g}' for scale in config.eval.scales)
  if config.eval.flip != run.eval.flip:
    name += '_flip' if config.eval.flip else '_unflipped'
  if config.eval.output_stride != run.eval.output_stride:
    name += f'_os{config.eval.output_stride}'
  return re.sub(r'[^\w.-]', '_', name)


def _check_same_step(
  file: file_predictor.FilePredictor,
  loaded: workdir_lib.TrainedModel,
  workdir: str,
) -> None:
  """Refuses to compare a file with a checkpoint of another step."""
  step = (file.card.get('source') or {}).get('step')
  if step is not None and step != loaded.step:
    raise ValueError(
      f'{file.path} holds the weights of step {step}, and the checkpoint of '
      f'{workdir} is of step {loaded.step}: choose it with '
      '--checkpoint=best or --checkpoint=latest, or export again'
    )


def evaluate_workdir(
  workdir: str,
  *,
  tflite: str | None = None,
  which: str = 'best',
  config: ConfigDict | None = None,
  overrides: Collection[str] = (),
) -> dict[str, Result]:
  """Evaluates a run's checkpoint, or a file exported from it beside it.

  A file is of one size and returns one form (logits, probabilities, ids). To
  compare like with like the checkpoint is then scored at that size and in that
  form too, and both in one view (unless `config` says otherwise). Results go to
  folders of W/eval: `checkpoint`, or `checkpoint_HxW` and one named after the
  file; what is not the run's own protocol or data is part of the name.

  Args:
    workdir: the run's work directory W.
    tflite: an exported file, .tflite or .onnx, with its model card beside it;
      or None.
    which: 'best' or 'latest' checkpoint.
    config: its `eval` and `data` are used instead of the run's own.
    overrides: fields of it that hold even where its data set is the run's own,
      such as 'data.root'; the others of `data` are then the run's.

  Returns:
    Results by the name of their folder.

  Raises:
    FileNotFoundError: no run, or no checkpoint, is there.
    ValueError: the file is not of this data set's classes or of another step,
      or see `evaluate_predictor`.
  """
  loaded = workdir_lib.load_trained_model(workdir, which)
  dataset = loaded.dataset
  own = config is None
  config = _override_eval_and_data(loaded.config, config, overrides)
  other = '' if own else _protocol_suffix(config, loaded.config)
  if not own:
    dataset = datasets.Dataset(config.data)
    if dataset.info.num_classes != loaded.dataset.info.num_classes:
      raise ValueError(
        f'the run in {workdir} has {loaded.dataset.info.num_classes} classes '
        f'and the data of --config has {dataset.info.num_classes}; leave '
        "--config out for the run's own data"
      )
  info = dataset.info
  protocol = config.eval
  if tflite is None:
    contenders: dict[str, predictors.Predictor] = {
      f'checkpoint{other}': checkpoint_predictor(loaded, protocol.output_stride)
    }
  else:
    file = load.load_predictor(tflite)
    protocol = single_view_config(config.eval) if own else config.eval
    if list(file.card['classes']) != list(info.class_names):
      raise ValueError(
        f'{tflite} has the classes {list(file.card["classes"])}, the data of '
        f'{workdir} {list(info.class_names)}: it was not exported from it'
      )
    _check_same_step(file, loaded, workdir)
    float_model = checkpoint_predictor(loaded)
    size = file.input_size
    contenders = {
      f'checkpoint_{size[0]}x{size[1]}{other}': predictors.fixed_size_predictor(
        float_model, size, file.output
      ),
      f'{pathlib.Path(tflite).stem}{other}': predictors.fixed_size_predictor(
        file, size
      ),
    }
  split = config.data.eval_split
  dataset.prepare(split)
  results = {}
  for name, predictor in contenders.items():
    results[name] = evaluate_predictor(
      predictor,
      dataset.examples(
        split,
        host_index=jax.process_index(),
        host_count=jax.process_count(),
      ),
      info,
      protocol,
      total=dataset.num_examples(split),
      loss_terms=config.loss.terms,
      sum_counts=parallel.sum_over_hosts,
    )
    if jax.process_index() == 0:
      write_result(results[name], os.path.join(workdir, 'eval', name), info)
    logging.info('%s: %s', name, summarize_result(results[name]))
  return results

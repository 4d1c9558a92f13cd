"""The evaluator: scores checkpoints and exported files by the same code.

Whatever the predictor, every pixel of every image of a split counts once, at
the resolution of its label. Images are padded to run in batches; the padding is
cut off before anything is counted. All counts are integers, so that hosts which
each evaluate a share of the split add them up exactly and divide once.

`evaluate_predictor` scores one predictor; training and export call it, too.
`evaluate_workdir` is the command: it chooses predictors, data and protocol.
The protocol is `config.eval`; `inference.views` carries it out.
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
from deeplab.files import output_files
from deeplab.inference import file_predictor
from deeplab.inference import load
from deeplab.inference import model_card
from deeplab.inference import predictors
from deeplab.inference import views

# More sizes than this are worth a line in the log.
_MANY_SIZES = 8
# int64 arrays by name, added up over hosts.
Counts = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Sample:
  """One evaluated image, to look at.

  Attributes:
    name: of the example.
    image: uint8 or uint16 [H, W, C].
    label: uint8 [H, W], train ids or 255.
    prediction: uint8 [H, W], class ids.
  """

  name: str
  image: np.ndarray
  label: np.ndarray
  prediction: np.ndarray


@dataclasses.dataclass(frozen=True)
class Result:
  """Scores of one evaluation.

  Attributes:
    metrics: value by name, as computed by `metrics.compute_scores`; NaN for a
      class that is absent.
    confusion: int64 [K, K], rows = label, columns = prediction.
    boundary: int64 [2, K], intersections and unions of boundary bands.
    examples: number of images.
    samples: the first few images of this host.
  """

  metrics: dict[str, float]
  confusion: np.ndarray
  boundary: np.ndarray
  examples: int
  samples: tuple[Sample, ...] = ()


# A split: predict, count, score.


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
  image_sizes: Callable[[], Iterable[tuple[int, int]]] = tuple,
) -> Result:
  """Scores a predictor on a split.

  Args:
    predictor: any predictor.
    examples: {'image': uint8 or uint16 [H, W, C], 'label': uint8 [H, W],
      'name': str}, this host's share of the split. Labels are train ids; 255 is
      ignored.
    info: names and number of the classes.
    protocol: `config.eval`.
    total: number of examples, for the progress bar.
    keep_samples: number of images to keep in the result, from the first.
    loss_terms: `config.loss.terms` of the run. The metric `loss` is the
      cross entropy of independent sigmoids if `sigmoid_cross_entropy` is among
      them, of the softmax otherwise.
    sum_counts: adds counts up over hosts; called once, at the end. The default
      is for one host.
    image_sizes: returns (H, W) of all examples; called if
      `protocol.max_padding` is not 0, before any example is read.

  Raises:
    ValueError: there are no examples, a label has another size than its image
      or a label value that is not a class, or the predictor cannot follow the
      protocol.
  """
  predictor = views.apply_mode(predictor, protocol)
  views.check_eval_config(predictor, protocol)
  if protocol.mode == 'slide':
    window = tuple(protocol.window)
    computed = predictor.input_size or views.padded_size(window, protocol)
    if computed != window:
      logging.info(
        'Windows of %dx%d grow to %dx%d, a size of eval.pad_multiple=%d and '
        'eval.pad_offset=%d',
        *(*window, *computed, protocol.pad_multiple, protocol.pad_offset),
      )
  if protocol.resize_labels:
    examples, protocol = _resize_examples(examples, predictor, protocol)
  counter = _MetricCounter(
    info.num_classes,
    protocol.boundary_share,
    sigmoid_loss='sigmoid_cross_entropy' in loss_terms,
  )
  canvases: Sequence[tuple[int, int]] = ()
  if protocol.max_padding:
    canvases = views.plan_canvases(
      predictor, image_sizes(), protocol, protocol.max_padding
    )
  samples: dict[int, Sample] = {}
  for example, prediction, scores in _predict_examples(
    predictor, examples, protocol, total, counter.loss.sigmoid, canvases
  ):
    counter.add(example, prediction, scores)
    if example['index'] < keep_samples:
      samples[example['index']] = Sample(
        example['name'], example['image'], example['label'], prediction
      )
  counts = sum_counts(counter.counts())
  if not counts['examples']:
    raise ValueError(
      f'the evaluation split of {info.name} is empty: nothing to score'
    )
  return Result(
    metrics.compute_scores(
      counts['confusion'],
      info.class_names,
      boundary=counts['boundary'],
      images=counts['images'],
      unscored=info.unscored,
      loss=counts['loss'] if protocol.loss else None,
    ),
    counts['confusion'],
    counts['boundary'],
    int(counts['examples']),
    tuple(samples[i] for i in sorted(samples)),
  )


def _resize_examples(
  examples: Iterable[dict], predictor: predictors.Predictor, protocol: Any
) -> tuple[Iterator[dict], Any]:
  """Resizes images and labels to the size that the predictor computes at.

  Scores are then counted at that size, as STMicroelectronics does.

  Args:
    examples: with 'image' [H, W, C] and 'label' [H, W].
    predictor: of a fixed size, or of any; then `protocol.fit` gives the size.
    protocol: `config.eval`.

  Returns:
    (resized examples, protocol that does not resize again)
  """

  def resize_example(example: dict) -> dict:
    image = example['image']
    size = predictor.input_size or views.view_size(
      image.shape, protocol.fit, 1.0
    )
    pixels = np.rint(resize.resize_bilinear(image, size))
    return example | {
      'image': pixels.astype(image.dtype),
      'label': resize.resize_nearest(example['label'], size),
    }

  unfitted = ConfigDict(protocol)
  with unfitted.unlocked():
    unfitted.fit = ()
  return map(resize_example, examples), unfitted


def _predict_examples(
  predictor: predictors.Predictor,
  examples: Iterable[dict],
  protocol: Any,
  total: int | None,
  sigmoid_loss: bool,
  canvases: Sequence[tuple[int, int]],
) -> Iterator[tuple[dict, np.ndarray, np.ndarray | None]]:
  """Predicts examples in batches of images of the same padded size.

  Args:
    predictor: any predictor.
    examples: with 'image' [H, W, C].
    protocol: `config.eval`.
    total: number of examples, for the progress bar.
    sigmoid_loss: True if the loss needs logits rather than probabilities.
    canvases: as `views.plan_canvases` returns them.

  Yields:
    (example with its 'index' in the split, uint8 [H, W] class ids, scores
    [H, W, K] if `protocol.loss` needs them), not in the order of the split.
  """
  indexed = (dict(x, index=i) for i, x in enumerate(examples))
  batches = _group_by_padded_size(indexed, predictor, protocol, canvases)
  predict_scores = (
    views.predict_logits if sigmoid_loss else views.predict_probabilities
  )
  for batch in system.track_progress(batches, total, 'evaluate', size=len):
    images = [x['image'] for x in batch]
    scores: list = [None] * len(batch)
    if protocol.loss:
      scores = predict_scores(predictor, images, protocol, canvases)
      predictions = [predictors.argmax(x) for x in scores]
    else:
      predictions = views.segment_images(predictor, images, protocol, canvases)
    yield from zip(batch, predictions, scores, strict=True)


def _group_by_padded_size(
  examples: Iterable[dict],
  predictor: predictors.Predictor,
  protocol: Any,
  canvases: Sequence[tuple[int, int]],
) -> Iterator[list[dict]]:
  """Groups examples that run in one batch: those of the same padded size.

  The log says how many sizes there are, since each is compiled.
  """
  waiting: dict[Any, list[dict]] = {}
  computed: set[tuple[int, int]] = set()
  for example in examples:
    key: Any = predictor.input_size
    if key is None and protocol.mode == 'slide':
      key = views.input_sizes(example['image'].shape, protocol)[0]
    elif key is None:
      sizes = views.input_sizes(example['image'].shape, protocol, canvases)
      key = tuple(sizes)
      few = len(computed) <= _MANY_SIZES
      computed.update(sizes)
      if few and len(computed) > _MANY_SIZES:
        logging.info(
          'Images of more than %d sizes: the network is compiled for each. '
          '--config.eval.max_padding=0.15 makes them few by padding (up to '
          '15%% more pixels), which lowers the scores',
          _MANY_SIZES,
        )
    group = waiting.setdefault(key, [])
    group.append(example)
    if len(group) == protocol.batch_size:
      yield waiting.pop(key)
  yield from waiting.values()
  if computed:
    logging.info('The network ran at %s', text.plural(len(computed), 'size'))


class _MetricCounter:
  """Integer counts of all metrics over the images of one host."""

  def __init__(
    self, num_classes: int, boundary_share: float, sigmoid_loss: bool
  ):
    self.confusion = metrics.ConfusionMatrix(num_classes)
    self.boundary = metrics.BoundaryIoU(num_classes, boundary_share)
    self.images = metrics.ImageIoU()
    self.loss = metrics.CrossEntropy(sigmoid=sigmoid_loss)
    self.examples = 0

  def add(
    self, example: dict, prediction: np.ndarray, scores: np.ndarray | None
  ) -> None:
    """Counts one image.

    Args:
      example: its 'label', uint8 [H, W], and 'name'.
      prediction: uint8 [H, W], class ids.
      scores: float32 [H, W, K] for the loss, if there is one.

    Raises:
      ValueError: the sizes differ, or a label value is not a class;
        the message names the example.
    """
    label = example['label']
    try:
      self.images.add(self.confusion.add(label, prediction))
    except ValueError as error:
      raise ValueError(f'{example["name"]}: {error}') from None
    self.boundary.add(label, prediction)
    if scores is not None:
      self.loss.add(label, scores)
    self.examples += 1

  def counts(self) -> Counts:
    """Returns the counts by metric, for summation over hosts."""
    return {
      'confusion': self.confusion.matrix,
      'boundary': self.boundary.counts,
      'images': self.images.counts,
      'loss': self.loss.counts,
      'examples': np.array(self.examples, np.int64),
    }


# Results: one line for the log, files for the work directory.


def summarize_result(result: Result) -> str:
  """Formats the main metrics in one line."""
  names = ('miou', 'pixel_accuracy', 'mean_accuracy', 'boundary_iou')
  numbers = ', '.join(f'{name} {result.metrics[name]:.4f}' for name in names)
  return f'{numbers} ({text.plural(result.examples, "image")})'


_RESULT_FILES = ('metrics.json', 'confusion.json', 'confusion.png')


def write_result(
  result: Result, directory: str | os.PathLike, info: dataset_info.DatasetInfo
) -> None:
  """Writes metrics.json, confusion.json and confusion.png to a directory.

  The scores of a class that is absent from labels and predictions are null.
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


# A run: which predictors, on which data, by which protocol.


def evaluate_workdir(
  workdir: str,
  *,
  tflite: str | None = None,
  which: str = 'best',
  config: ConfigDict | None = None,
  overrides: Collection[str] = (),
) -> dict[str, Result]:
  """Evaluates the checkpoint of a run, or an exported file and the checkpoint.

  A file has one size and one kind of output. The checkpoint that it is compared
  with is evaluated at the same size and with the same output, and both in one
  view of whole images unless `config` says otherwise. Results go to folders of
  W/eval: `checkpoint`, or `checkpoint_HxW` and one named after the file (with
  `file_` before it if a checkpoint has that name).
  Differences from the run's own data and protocol are appended to the name.

  Args:
    workdir: work directory W of the run.
    tflite: an exported file, .tflite or .onnx, with its model card beside it;
      or None.
    which: 'best' or 'latest' checkpoint.
    config: a config whose `eval` and `data` replace those of the run.
    overrides: names of its fields, such as 'data.root', that also apply if its
      data set is that of the run. The other fields of `data` are then the
      run's.

  Returns:
    Results by the name of their folder.

  Raises:
    FileNotFoundError: `workdir` holds no run or no checkpoint.
    ValueError: the file has other classes or was exported from another step,
      or `evaluate_predictor` raises.
  """
  return evaluate_model(
    workdir_lib.load_trained_model(workdir, which),
    workdir,
    tflite=tflite,
    config=config,
    overrides=overrides,
  )


def evaluate_model(
  loaded: workdir_lib.TrainedModel,
  workdir: str,
  *,
  tflite: str | None = None,
  config: ConfigDict | None = None,
  overrides: Collection[str] = (),
) -> dict[str, Result]:
  """Evaluates a model, or an exported file and the model.

  Args:
    loaded: the model, of a run or of a file of weights.
    workdir: folder W, to whose `eval` results are written; that of the run.
    tflite: as for `evaluate_workdir`.
    config: a config whose `eval` and `data` replace those of the model.
    overrides: as for `evaluate_workdir`.

  Returns:
    Results by the name of their folder.

  Raises:
    ValueError: the file has other classes or was exported from another step,
      or `evaluate_predictor` raises.
  """
  suffix, on_data = '', loaded
  if config is not None:
    on_data = with_data_of(loaded, config, overrides)
    suffix = _protocol_suffix(on_data.config, loaded.config)
  dataset, merged = on_data.dataset, on_data.config
  protocol = merged.eval
  if tflite is None:
    contenders: dict[str, predictors.Predictor] = {
      'checkpoint': checkpoint_predictor(loaded, protocol.output_stride)
    }
  else:
    file = load.load_predictor(tflite)
    _check_same_model(file, loaded, dataset.info, workdir)
    contenders = _file_and_checkpoint(file, loaded)
    _check_result_files(workdir, [x + suffix for x in contenders], file)
    if config is None:
      protocol = single_view_config(protocol)
  return _score_contenders(
    contenders, dataset, merged, protocol, workdir, suffix
  )


def evaluate_file(
  path: str | os.PathLike, workdir: str, config: ConfigDict
) -> dict[str, Result]:
  """Evaluates an exported file alone, in one view of whole images.

  Args:
    path: .tflite or .onnx file, with its model card beside it.
    workdir: folder W, to whose `eval` results are written.
    config: names the data set.

  Returns:
    The result by the name of its folder.

  Raises:
    ValueError: the file is damaged, has another number of classes than the data
      set, or takes other images; or `evaluate_predictor` raises.
  """
  file = load.load_predictor(path)
  config = datasets.resolve_config(config)
  dataset = datasets.Dataset(config.data)
  classes = len(file.card['classes'])
  if (classes, file.image_spec) != (dataset.info.num_classes, dataset.spec):
    raise ValueError(
      f'{path} has {classes} classes and takes {file.image_spec}, and the data '
      f'of --config has {dataset.info.num_classes} and {dataset.spec}: name '
      'the config of its data set'
    )
  name = _file_result_name(file.path.stem)
  _check_result_files(workdir, [name], file)
  return _score_contenders(
    {name: predictors.fixed_size_predictor(file, file.input_size)},
    dataset,
    config,
    single_view_config(config.eval),
    workdir,
  )


def _score_contenders(
  contenders: dict[str, predictors.Predictor],
  dataset: datasets.Dataset,
  config: ConfigDict,
  protocol: Any,
  workdir: str,
  suffix: str = '',
) -> dict[str, Result]:
  """Scores predictors on the evaluation split, and writes the results.

  Args:
    contenders: predictors by name.
    dataset: the data set.
    config: the experiment with that data set.
    protocol: how images are fed to the predictors.
    workdir: folder W, to whose `eval` results are written.
    suffix: what is appended to the names, for their folders.
  """
  split = config.data.eval_split
  dataset.prepare(split)
  results = {}
  for name, predictor in contenders.items():
    result = evaluate_predictor(
      predictor,
      dataset.examples(
        split,
        host_index=jax.process_index(),
        host_count=jax.process_count(),
      ),
      dataset.info,
      protocol,
      total=dataset.num_examples(split),
      loss_terms=config.loss.terms,
      sum_counts=parallel.sum_over_hosts,
      image_sizes=functools.partial(
        dataset.image_sizes,
        split,
        host_index=jax.process_index(),
        host_count=jax.process_count(),
      ),
    )
    folder = name + suffix
    if jax.process_index() == 0:
      write_result(result, os.path.join(workdir, 'eval', folder), dataset.info)
    logging.info('%s: %s', folder, summarize_result(result))
    results[folder] = result
  return results


def checkpoint_predictor(
  loaded: workdir_lib.TrainedModel, output_stride: int = 0
) -> predictors.FlaxPredictor:
  """Returns the predictor of a run's checkpoint, with logits.

  Args:
    loaded: the run.
    output_stride: of the encoder, as in `config.eval.output_stride`; 0 for the
      one that was trained.
  """
  network = networks.Network(loaded.config, loaded.dataset)
  variables = network.eval_variables(loaded.variables)
  return network.predictor(variables, output_stride=output_stride)


def _file_and_checkpoint(
  file: file_predictor.FilePredictor, loaded: workdir_lib.TrainedModel
) -> dict[str, predictors.Predictor]:
  """Returns a file's predictor and the checkpoint's, made comparable.

  Both compute at the size of the file and have its output.

  Args:
    file: the exported file.
    loaded: the run that it was exported from.

  Returns:
    Predictors by name, the checkpoint first.
  """
  size = file.input_size
  return {
    f'checkpoint_{size[0]}x{size[1]}': predictors.fixed_size_predictor(
      checkpoint_predictor(loaded), size, file.output
    ),
    _file_result_name(file.path.stem): predictors.fixed_size_predictor(
      file, size
    ),
  }


def _file_result_name(stem: str) -> str:
  """Returns the folder of a file's results, which no checkpoint has."""
  taken = stem == 'last' or stem.startswith('checkpoint')
  return f'file_{stem}' if taken else stem


def _check_result_files(
  workdir: str, names: Sequence[str], file: file_predictor.FilePredictor
) -> None:
  """Raises ValueError if results would replace the file or its model card."""
  for name in names:
    output_files.OutputFiles(
      os.path.join(workdir, 'eval', name),
      flag='--workdir',
      inputs=[file.path, model_card.card_path(file.path)],
      overwrite=True,  # the folder is the run's
    ).check(_RESULT_FILES)


def _check_same_model(
  file: file_predictor.FilePredictor,
  loaded: workdir_lib.TrainedModel,
  info: dataset_info.DatasetInfo,
  workdir: str,
) -> None:
  """Rejects a file that was not exported from a checkpoint.

  Raises:
    ValueError: the file has other classes or the weights of another step.
  """
  classes = list(file.card['classes'])
  if classes != list(info.class_names):
    raise ValueError(
      f'{file.path} has the classes {classes}, the data of {workdir} '
      f'{list(info.class_names)}: it was not exported from it'
    )
  step = (file.card.get('source') or {}).get('step')
  if step is not None and step != loaded.step:
    raise ValueError(
      f'{file.path} holds the weights of step {step}, and the checkpoint of '
      f'{workdir} is of step {loaded.step}: choose it with '
      '--checkpoint=best or --checkpoint=latest, or export again'
    )


def single_view_config(protocol: Any) -> Any:
  """Returns `config.eval` changed to one view of whole images.

  An exported file, which has one size, and the model that it is compared with
  are scored in this way.
  """
  changed = ConfigDict(protocol)
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


def with_data_of(
  loaded: workdir_lib.TrainedModel,
  config: ConfigDict,
  overrides: Collection[str],
) -> workdir_lib.TrainedModel:
  """Returns a model with `eval` and `data` of another config.

  Args:
    loaded: the model.
    config: the other config.
    overrides: as for `evaluate_workdir`.

  Raises:
    ValueError: its data set has another number of classes than the model.
  """
  merged = _override_eval_and_data(loaded.config, config, overrides)
  return dataclasses.replace(
    loaded, config=merged, dataset=_dataset_of_same_classes(merged, loaded)
  )


def _override_eval_and_data(
  run: ConfigDict, other: ConfigDict, overrides: Collection[str]
) -> ConfigDict:
  """Returns the config of a run with `eval` and `data` of another config.

  If both have the same data set, the run's fields of `data` stay, except for
  `overrides`. The depth of the images and their normalization always stay: the
  weights expect them.
  """
  merged = run.copy_and_resolve_references()
  with merged.unlocked():
    merged.eval = other.eval
    if other.data.name == run.data.name:
      merged.update_from_flattened_dict(
        {
          name: functools.reduce(
            lambda section, part: section[part], name.split('.'), other
          )
          for name in overrides
          if name.startswith('data.')
        }
      )
      merged = datasets.resolve_config(merged)
    else:
      merged.data = ConfigDict(datasets.resolve_config(other).data)
    with merged.data.unlocked():
      merged.data.mean, merged.data.std = run.data.mean, run.data.std
      merged.data.depth = image_format.image_spec(run.data).depth
  return merged


def _dataset_of_same_classes(
  config: ConfigDict, loaded: workdir_lib.TrainedModel
) -> datasets.Dataset:
  """Returns the data set of a config.

  Raises:
    ValueError: it has another number of classes than the model.
  """
  dataset = datasets.Dataset(config.data)
  trained, given = loaded.dataset.info.num_classes, dataset.info.num_classes
  if given != trained:
    raise ValueError(
      f'the model has {trained} classes and the data of --config has {given}; '
      'leave --config out for its own data'
    )
  return dataset


def _protocol_suffix(config: ConfigDict, run: ConfigDict) -> str:
  """Returns the differences from a run's data and protocol, for a file name."""
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

"""The network of an experiment: float, or int8 simulated in training.

A command makes it once and passes it along:

    network = networks.Network(config, datasets.Dataset(config.data))
    variables = network.eval_variables(loaded.variables)
    predictor = network.predictor(variables)

`config.quantization.name` chooses between the two here and nowhere else. Both
answer to the same methods, so that training, evaluation and export need not
know which one they were given.
"""

from collections.abc import Sequence
import copy
from typing import TYPE_CHECKING
from typing import Any

from absl import logging
import numpy as np

from deeplab import parallel
from deeplab.data import datasets
from deeplab.data import resize
from deeplab.inference import predictors
from deeplab.models import registry
from deeplab.models import segmenter
from deeplab.quantization import pixel_input
from deeplab.quantization import qparams
from deeplab.quantization import rules as rules_lib
from deeplab.quantization import simulator
from deeplab.quantization.ptq import batch_norm_folding
from deeplab.quantization.ptq import calibration
from deeplab.training import train_step

if TYPE_CHECKING:
  # Only for annotations: modules can be built without ml_collections.
  from ml_collections import ConfigDict

PyTree = Any

# Convolutions as one `lax.conv_general_dilated` each, computed once. Exported
# files hold these, and Qwix recognizes no others: its metadata of arrays does
# not survive rematerialization.
PLAIN_CONV_OPTIONS: dict[str, Any] = {
  'depthwise': 'conv',
  'pointwise': 'conv',
  'remat': 0,
}


def check_config(config: 'ConfigDict') -> None:
  """Raises an error if int8 training cannot run with this config.

  Float configs always pass.

  Args:
    config: the experiment.

  Raises:
    ValueError: a field has a value that int8 training does not support; the
      message says what to set.
  """
  if not rules_lib.is_int8(config):
    return
  q = config.quantization
  if not config.init_from:
    raise ValueError(
      "config.quantization.name='int8' continues from float weights: set "
      'config.init_from to the work directory of a float run'
    )
  if rules_lib.from_config(q).weights != 'channel':
    raise ValueError(
      f'config.quantization.weights={q.weights!r}: training has one scale for '
      "each output channel; use 'channel' here, or export a float run with "
      f'--weight_granularity={q.weights}'
    )
  if not 0 <= q.range_decay < 1 or q.range_steps < 0:
    raise ValueError(
      f'config.quantization.range_decay={q.range_decay} must lie in [0, 1), '
      f'and range_steps={q.range_steps} must be 0 or more'
    )
  if config.model.dtype != 'float32':
    raise ValueError(
      f'config.model.dtype={config.model.dtype!r}: int8 is simulated in '
      "float32; set 'float32'"
    )
  if config.model.remat:
    raise ValueError(
      f'config.model.remat={config.model.remat}: int8 is simulated without '
      'rematerialization; set 0, and raise accumulate_steps if memory is short'
    )


class Network:
  """The network of an experiment, and its variables in each form.

  `Network(config, dataset)` returns the int8 kind for a config that trains in
  simulated int8, as `pathlib.Path()` returns the kind of the platform.

  Attributes:
    config: the experiment.
    dataset: its data set.
    arithmetic: 'float32' or 'simulated int8', for reports.
    has_trained_ranges: True if training fixed which layers are int8 and the
      range of each activation. An export then uses these: it neither
      calibrates nor accepts other quantization rules.
  """

  arithmetic = 'float32'
  has_trained_ranges = False

  def __new__(cls, config: 'ConfigDict', dataset: datasets.Dataset):
    """Returns an instance of the kind that `config.quantization` names."""
    del dataset
    return super().__new__(_Int8Network if rules_lib.is_int8(config) else cls)

  def __init__(self, config: 'ConfigDict', dataset: datasets.Dataset):
    """Describes the network; nothing is built yet.

    Args:
      config: the experiment.
      dataset: its data set, which gives the number of classes and channels.

    Raises:
      ValueError: `config.quantization.name` is unknown.
    """
    self.config = config
    self.dataset = dataset

  @property
  def num_classes(self) -> int:
    """Number of classes."""
    return self.dataset.info.num_classes

  @property
  def has_frozen_batch_norm(self) -> bool:
    """True if BatchNorm keeps its running statistics during training."""
    return rules_lib.has_frozen_batch_norm(self.config)

  def train_model(self, axis_name: str | None = None) -> Any:
    """Builds the network for training on this platform.

    Args:
      axis_name: pmap axis over which BatchNorm averages; None outside pmap.

    Returns:
      A Linen module of normalized images [B, H, W, C]. In simulated int8 its
      variables have the collection 'quant_stats', the activation ranges.

    Raises:
      ValueError: a name or field of `config.model` or `config.quantization` is
        unknown.
    """
    return self._build(axis_name, **parallel.kernels())

  def eval_model(self, output_stride: int = 0) -> Any:
    """Builds the network whose outputs are evaluated.

    Simulated int8 takes images that are not normalized: the exported file does
    too, and rounds them to int8 after its first layer has normalized them.

    Args:
      output_stride: 4, 8, 16 or 32; 0 for the one that was trained.

    Returns:
      A Linen module, for the variables of `eval_variables`.

    Raises:
      ValueError: a name or field of `config.model` or `config.quantization` is
        unknown.
    """
    return self._build(output_stride=output_stride, **parallel.kernels())

  def export_model(
    self, max_resize_ratio: int | None = None
  ) -> segmenter.Segmenter:
    """Builds the float32 network that exported files hold.

    Args:
      max_resize_ratio: largest ratio of one resize, 0 for any; None for
        `config.model.resize_ratio`.

    Returns:
      A Linen module of normalized images, for the variables of
      `export_variables`.
    """
    model = copy.deepcopy(self.config.model)
    with model.unlocked():
      model.dtype = 'float32'
      if max_resize_ratio is not None:
        model.resize_ratio = max_resize_ratio
    return registry.build_model(model, self.num_classes, **PLAIN_CONV_OPTIONS)

  def export_variables(self, variables: PyTree) -> PyTree:
    """Returns variables of a run in the form that is evaluated and exported.

    A float network returns them unchanged. In simulated int8 kernels are
    rounded to their scales and BatchNorms are folded into them, as in the
    file. Rounding first keeps the integers of training: a weight halfway
    between two steps could otherwise land on the other one.

    Args:
      variables: {'params', 'batch_stats', ...} of `train_model`.
    """
    return variables

  def add_input_normalization(self, variables: PyTree) -> PyTree:
    """Returns variables of `eval_model`, from those of `export_variables`.

    Args:
      variables: {'params', ...}, as `export_variables` returns them.
    """
    return variables

  def eval_variables(self, variables: PyTree) -> PyTree:
    """Returns variables of `eval_model`, from those of `train_model`.

    Args:
      variables: {'params', 'batch_stats', ...}.
    """
    return self.add_input_normalization(self.export_variables(variables))

  def start_from(self, variables: PyTree) -> PyTree:
    """Returns the variables that training starts from, given float ones.

    A float network starts from them as they are. Simulated int8 folds
    BatchNorms and rounds kernels where `config.quantization.frozen_norms` is
    set, and calibrates activation ranges on training images.

    Args:
      variables: {'params', 'batch_stats'}, pretrained or of a float run.

    Raises:
      ValueError: the images are too few or too plain to calibrate on, or a
        field of `config.quantization.calibration` has no such value.
    """
    return variables

  def quantize_weights(
    self,
    model: segmenter.Segmenter,
    rules: rules_lib.Rules,
    variables: PyTree,
    images: Sequence[np.ndarray],
  ) -> PyTree:
    """Returns the weights of integer files, from those of `export_variables`.

    A float network folds BatchNorms, equalizes channels and rounds kernels, as
    `config.quantization.calibration` says. Training in simulated int8 has done
    all of that: its weights are returned unchanged.

    Args:
      model: as `export_model` returns it.
      rules: the layers that are quantized.
      variables: {'params', 'batch_stats'}.
      images: [H, W, C] each, integers, not normalized, of one size.

    Raises:
      ValueError: the rounding method is unknown, or the images are too few or
        too plain.
    """
    return calibration.prepare_int8_weights(
      model, rules, variables, images, self.config
    )

  def add_activation_ranges(
    self,
    model: segmenter.Segmenter,
    rules: rules_lib.Rules,
    variables: PyTree,
    weights: PyTree,
    images: Sequence[np.ndarray],
  ) -> PyTree:
    """Returns the weights of integer files and their activation ranges.

    A float network calibrates the ranges; simulated int8 has trained them.

    Args:
      model: as `export_model` returns it.
      rules: the layers that are quantized.
      variables: as `export_variables` returns them.
      weights: as `quantize_weights` returns them.
      images: [H, W, C] each, integers, not normalized, of one size.

    Returns:
      {'params', 'batch_stats', 'quant_stats'}.

    Raises:
      ValueError: the method is unknown, the percentile out of range, or the
        images are too few or too plain.
    """
    del variables
    return calibration.add_activation_ranges(
      model, rules, weights, images, self.config
    )

  def range_tracking(self, model: Any) -> train_step.RangeTracking | None:
    """Returns how training updates activation ranges; None for float.

    Args:
      model: as `train_model` returns it.
    """
    del model
    return None

  def predictor(
    self, variables: PyTree, output: str = 'logits', output_stride: int = 0
  ) -> predictors.FlaxPredictor:
    """Returns the predictor that evaluation scores.

    Args:
      variables: as `eval_variables` returns them; {} if `with_variables` gives
        them later.
      output: 'logits', 'softmax' or 'argmax'.
      output_stride: 4, 8, 16 or 32; 0 for the one that was trained.
    """
    data = self.config.data
    return predictors.FlaxPredictor(
      self.eval_model(output_stride), variables, data.mean, data.std, output
    )

  def simulate_int8(
    self,
    model: Any,
    rules: rules_lib.Rules,
    input_range: tuple[float, float] | None = None,
    int8_output: bool = False,
  ) -> Any:
    """Returns a model in simulated int8, with this platform's kernels.

    Args:
      model: as `export_model` returns it.
      rules: the layers that are quantized, and how.
      input_range: smallest and largest value of an image, if known.
      int8_output: logits of 16 bits become 8.
    """
    kernels = {k: self.config.model[k] for k in ('depthwise', 'pointwise')}
    return simulator.load_providers().simulate_int8(
      model,
      rules,
      input_range,
      int8_output=int8_output,
      **{**kernels, **parallel.kernels()},
    )

  def _build(
    self, axis_name: str | None = None, output_stride: int = 0, **kernels: Any
  ) -> segmenter.Segmenter:
    return registry.build_model(
      registry.with_output_stride(self.config.model, output_stride),
      self.num_classes,
      axis_name=axis_name,
      frozen_norms=self.has_frozen_batch_norm,
      **kernels,
    )


class _Int8Network(Network):
  """A network that is trained in simulated int8."""

  arithmetic = 'simulated int8'
  has_trained_ranges = True

  @property
  def _rules(self) -> rules_lib.Rules:
    return rules_lib.from_config(self.config.quantization)

  def train_model(self, axis_name: str | None = None) -> Any:
    model = self._build(axis_name, **PLAIN_CONV_OPTIONS)
    return self.simulate_int8(model, self._rules)

  def eval_model(self, output_stride: int = 0) -> Any:
    spec = self.dataset.spec
    plain = registry.build_model(
      registry.with_output_stride(self.config.model, output_stride),
      self.num_classes,
      **PLAIN_CONV_OPTIONS,
    )
    model = pixel_input.with_input_normalization(
      plain, self._rules, spec.channels
    )
    return self.simulate_int8(model, self._rules, (0.0, float(spec.max_value)))

  def export_variables(self, variables: PyTree) -> PyTree:
    return batch_norm_folding.fold_batch_norms(
      self.export_model(),
      qparams.round_kernels(variables, self._rules),
      self.dataset.spec.channels,
    )

  def add_input_normalization(self, variables: PyTree) -> PyTree:
    data = self.config.data
    return pixel_input.add_normalization_layer(variables, data.mean, data.std)

  def start_from(self, variables: PyTree) -> PyTree:
    config, q = self.config, self.config.quantization
    images = [
      resize.resize_bilinear(image, config.eval.static_size)
      for image in self.dataset.calibration_images(
        q.calibration.images, config.seed
      )
    ]
    logging.info('Calibrating int8 on %d training images', len(images))
    model = self.export_model()
    if q.frozen_norms:
      variables = calibration.prepare_int8_weights(
        model, self._rules, variables, images, config
      )
    return calibration.add_activation_ranges(
      model, self._rules, variables, images, config
    )

  def quantize_weights(
    self,
    model: segmenter.Segmenter,
    rules: rules_lib.Rules,
    variables: PyTree,
    images: Sequence[np.ndarray],
  ) -> PyTree:
    del model, rules, images
    return variables

  def add_activation_ranges(
    self,
    model: segmenter.Segmenter,
    rules: rules_lib.Rules,
    variables: PyTree,
    weights: PyTree,
    images: Sequence[np.ndarray],
  ) -> PyTree:
    del model, rules, weights, images
    return variables

  def range_tracking(self, model: Any) -> train_step.RangeTracking:
    q = self.config.quantization
    # Activations under batch statistics are not those of the exported file:
    # ranges are then observed in evaluation mode.
    observer = None if self.has_frozen_batch_norm else model
    return train_step.RangeTracking(q.range_decay, q.range_steps, observer)

  def predictor(
    self, variables: PyTree, output: str = 'logits', output_stride: int = 0
  ) -> predictors.FlaxPredictor:
    return predictors.Int8Predictor(
      self.eval_model(output_stride), variables, self.config.data.mean, output
    )

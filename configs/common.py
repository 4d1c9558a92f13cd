"""What the experiments share: every default value there is.

A config file starts from `base()`, reads its variant by `choose()`, says what
its experiment changes, and ends with `finish()`, which writes down every field
of the encoder and the heads that were chosen. So what a run did is what its
`config.json` says, and any field can be overridden on the command line. What
the pages of one source share is in `recipes/`.
"""

from collections.abc import Iterable
from typing import Any

from ml_collections import ConfigDict

from deeplab.models import registry


def default_config() -> ConfigDict:
  """Returns the defaults, section by section."""
  c = ConfigDict()
  c.name = 'base'
  c.seed = 0

  # Data. Pixel values are 0..255, or 0..65535, until `mean` and `std` normalise
  # them; these have a value for each channel of the images.
  c.data = ConfigDict()
  c.data.name = 'shapes'
  c.data.data_dir = ''  # prepared data; '' is ~/tensorflow_datasets
  c.data.root = ''  # the raw data set, for builders that read one
  c.data.fallback = ''  # takes the place of a data set that is absent
  c.data.train_split = 'train'
  c.data.eval_split = 'val'
  c.data.mean = (123.675, 116.28, 103.53)
  c.data.std = (58.395, 57.12, 57.375)
  # Augmentation: `ops` in order; an op's parameters stand under its name.
  c.data.augment = ConfigDict()
  c.data.augment.ops = ('random_scale', 'random_crop', 'random_flip')
  # What shrinks: 'area' averages what a pixel covers, 'bilinear' does not, as
  # evaluation at a static size does not.
  c.data.augment.shrink = 'area'
  # The id that a resized label takes: under a pixel's 'center', or under its
  # 'corner', as OpenCV's nearest neighbour of most sources does.
  c.data.augment.nearest = 'center'
  # What uncovered pixels get, a value a channel; (): those of `mean`.
  c.data.augment.fill = ()
  c.data.augment.random_scale = ConfigDict(
    {'low': 0.5, 'high': 2.0, 'step': 0.0}  # 0: any factor in between
  )
  # As large as fits into (long, short), times a factor.
  c.data.augment.random_fit = ConfigDict(
    {'low': 0.5, 'high': 2.0, 'long': 2048, 'short': 512}
  )
  c.data.augment.random_short_side = ConfigDict({'low': 260, 'high': 1040})
  c.data.augment.random_stretch = ConfigDict(
    {'low': 1.0, 'high': 2.0, 'probability': 0.5}
  )
  c.data.augment.stretch = ConfigDict({'size': (257, 257)})
  c.data.augment.random_window = ConfigDict(
    {'share': (0.6, 0.9), 'center': (0.25, 0.75), 'probability': 0.9}
  )
  c.data.augment.random_crop = ConfigDict(
    {
      'size': (257, 257),
      'max_class_share': 1.0,  # 1: any crop will do
      # False: images that are smaller stay so, for a `pad` that comes later.
      'padded': True,
    }
  )
  c.data.augment.random_flip = ConfigDict({'probability': 0.5})
  c.data.augment.random_flip_vertical = ConfigDict({'probability': 0.5})
  c.data.augment.random_rotate = ConfigDict(
    {'degrees': 10.0, 'probability': 0.5}
  )
  c.data.augment.photometric = ConfigDict(
    {
      'brightness': 32.0,
      'contrast': (0.5, 1.5),
      'saturation': (0.5, 1.5),
      'hue': 18.0,
    }
  )
  c.data.augment.distort = ConfigDict(
    {
      'brightness': 0.5,
      'contrast': 0.5,
      'saturation': 0.5,
      'hue': 18.0,
      'probability': 0.5,
    }
  )
  c.data.augment.brightness_contrast = ConfigDict(
    {'brightness': 0.3, 'contrast': 0.4}
  )
  c.data.augment.pad = ConfigDict({'size': ()})  # (): that of random_crop
  c.data.threads = 0  # threads that read and augment; 0: one a core
  c.data.prefetch = 4  # batches ahead of the step, if not fewer than threads
  # True: decode once and keep the whole split in memory, 4 bytes a pixel.
  c.data.cache = False

  # Model.
  c.model = ConfigDict()
  c.model.encoder = ConfigDict({'name': 'mobilenet_v2'})
  c.model.head = ConfigDict({'name': 'deeplabv3plus'})
  c.model.auxiliary = ConfigDict({'name': 'none'})
  c.model.output_stride = 16
  c.model.multi_grid = (1, 1, 1)
  # Of one resize; what grows by more takes steps. 0: any. Ethos-U55 takes 2.
  c.model.resize_ratio = 0
  c.model.dtype = 'float32'  # or 'bfloat16'
  # So many stages of the encoder, from the finest, keep only the inputs of
  # their blocks for the backward pass, which computes the rest again: less
  # memory, a forward pass more. 0: none; 5: all. (XLA ignores it on a CPU.)
  c.model.remat = 0
  # True: BatchNorms keep the statistics of `init_from`, for batches that are
  # too small to have any; scales and offsets are trained on. (Of int8 runs
  # `quantization.frozen_norms` says it.)
  c.model.frozen_norms = False
  c.model.depthwise = 'shifted'  # on a CPU; accelerators always use 'conv'
  c.model.pointwise = 'matmul'  # on a CPU; accelerators always use 'conv'

  # Trained weights to start from: published ones ('torchvision:resnet50'), a
  # file, or a work directory (deeplab/pretrained/resolve.py). '': none.
  c.init_from = ''
  # Regex of whole paths of ours that start at random all the same, and of
  # tensors of the file that are left: 'head/classifier/.*'. '': none.
  c.init_skip = ''

  # Quantisation: 'int8' trains on, in simulated int8, from the float weights of
  # `init_from`; exports take `float_layers` to `calibration` as defaults.
  c.quantization = ConfigDict()
  c.quantization.name = 'none'
  c.quantization.float_layers = ''  # regex of whole module paths: 'head/.*'
  c.quantization.wide_layers = ''  # likewise, with activations of 16 bits
  c.quantization.weights = 'channel'  # one scale each, or a 'tensor'
  c.quantization.power_of_two = False  # scales; zero points are then 0
  c.quantization.calibration = ConfigDict(
    {
      'images': 64,
      'method': 'mse',  # or 'minmax', 'average', 'percentile'
      'percentile': 99.99,
      # Channels that depthwise kernels read are brought to one range; not
      # with weights of one scale a 'tensor'.
      'equalize': True,
      # Of the kernels of float weights; or 'nearest'.
      'rounding': 'least_squares',
    }
  )
  c.quantization.frozen_norms = True  # BatchNorms keep their statistics
  # Ranges follow what training sees; from step `range_steps` on (0: never)
  # they stay.
  c.quantization.range_decay = 0.99
  c.quantization.range_steps = 0

  # Loss: the sum of `terms`; a term's factor and its parameters stand under its
  # name.
  c.loss = ConfigDict()
  c.loss.terms = ('cross_entropy',)
  c.loss.auxiliary_terms = ()  # of each output that only training has; () same
  c.loss.cross_entropy = ConfigDict({'weight': 1.0})
  c.loss.sigmoid_cross_entropy = ConfigDict({'weight': 1.0})
  c.loss.focal = ConfigDict({'weight': 1.0, 'gamma': 2.0})
  c.loss.ohem = ConfigDict(
    {
      'weight': 1.0,
      'threshold': 0.0,  # probability; 0: the `min_kept` of the largest loss
      'min_kept': 100_000,  # pixels an image, on average over the batch
    }
  )
  # The hardest `share` of all pixels, which falls from 1 in `ramp_steps`.
  c.loss.hardest = ConfigDict({'weight': 1.0, 'share': 0.25, 'ramp_steps': 0})
  c.loss.dice = ConfigDict({'weight': 1.0, 'smooth': 1.0})
  c.loss.tversky = ConfigDict(
    {'weight': 1.0, 'alpha': 0.3, 'beta': 0.7, 'gamma': 1.0, 'smooth': 1.0}
  )
  c.loss.lovasz = ConfigDict({'weight': 1.0})
  c.loss.normalizer = 'valid'  # mean over 'valid' pixels, 'all', or 'weight'
  c.loss.class_weights = ()  # one a class; () for 1 everywhere
  # Or class weights from the training split, to this power. 0: none; 0.5 is
  # mild; 1 counts classes alike.
  c.loss.balance = 0.0
  # By the 'inverse' of a class's share of the pixels, 1 for the mean pixel; by
  # the 'median' of the classes' frequencies; or by the 'log' of ENet.
  c.loss.balance_rule = 'inverse'
  # The share of steps, drawn at random, in which class weights hold.
  c.loss.weighted_steps = 1.0
  c.loss.auxiliary_weight = 0.4  # of each output that only training has

  # Optimiser and schedule.
  c.batch_size = 8  # global: the sum over devices
  c.accumulate_steps = 1
  c.total_steps = 0  # 0: as many as `epochs` takes
  c.epochs = 30.0
  c.optimizer = ConfigDict()
  c.optimizer.name = 'adamw'
  c.optimizer.learning_rate = 1e-3
  c.optimizer.weight_decay = 1e-2
  c.optimizer.decay_mask = '.*/kernel$'  # regex of decayed parameter paths
  c.optimizer.encoder_multiplier = 1.0  # on the rate below 'encoder/'
  c.optimizer.head_multiplier = 1.0  # below 'head/'
  c.optimizer.auxiliary_multiplier = 1.0  # below 'auxiliary/'
  c.optimizer.bias_multiplier = 1.0  # on biases besides, BatchNorm's excepted
  c.optimizer.clip_norm = 0.0  # 0: no clipping
  c.optimizer.sgd = ConfigDict({'momentum': 0.9, 'nesterov': False})
  c.optimizer.adam = ConfigDict({'b1': 0.9, 'b2': 0.999, 'epsilon': 1e-8})
  c.optimizer.adamw = ConfigDict({'b1': 0.9, 'b2': 0.999})
  c.schedule = ConfigDict()
  c.schedule.name = 'poly'
  c.schedule.warmup_steps = 100
  c.schedule.warmup_epochs = 0.0  # in place of `warmup_steps`, for `epochs`
  c.schedule.warmup = 'linear'  # or 'constant'
  c.schedule.warmup_start = 0.0  # factor; 0: (t + 1) / steps of the warm-up
  c.schedule.warmup_first = False  # True: the schedule begins after it
  c.schedule.poly = ConfigDict({'power': 0.9, 'end': 0.0})
  c.schedule.cosine = ConfigDict({'end': 0.0})
  c.schedule.step = ConfigDict({'milestones': (0.6, 0.8), 'gamma': 0.1})
  c.schedule.one_cycle = ConfigDict({'rise': 0.3, 'start': 0.04, 'end': 4e-6})
  # `factor` after `patience` evaluations without a better `metric`.
  c.schedule.plateau = ConfigDict(
    {
      'metric': 'miou',
      'patience': 10,
      'factor': 0.5,
      'min_delta': 1e-4,
      'end': 1e-6,  # the lowest rate
    }
  )
  c.ema_decay = 0.0  # 0: no average of the weights
  # Ends a run before `total_steps`: after `patience` evaluations without a
  # better `metric` (0: never), or at the first report after so many minutes of
  # training and evaluation, restarts added up (0: none). Schedules do not know.
  c.early_stopping = ConfigDict(
    {'metric': 'miou', 'patience': 0, 'min_delta': 0.0}
  )
  c.max_minutes = 0.0

  # Evaluation.
  c.eval = ConfigDict()
  c.eval.every_epochs = 10.0
  c.eval.batch_size = 4
  c.eval.output_stride = 0  # of the weights that were trained at another; 0: no
  # 'slide': by windows. 'static': resized to `static_size`, and back again.
  c.eval.mode = 'whole'
  c.eval.window = (257, 257)  # of 'slide' (H, W)
  c.eval.stride = (171, 171)  # between windows; a third of each overlaps
  # Images are first resized to fit into (long, short); (): they are not.
  # mmsegmentation: (2048, 512) on ADE20K and VOC, in its one-view test alone.
  c.eval.fit = ()
  # True: scores are of labels resized along, as torchvision and the STM32 model
  # zoo have them; False: of every pixel of the data set.
  c.eval.resize_labels = False
  # True: the cross entropy too, of sigmoids where `loss.terms` has that, and
  # without weights; logits leave the device for it.
  c.eval.loss = False
  c.eval.scales = (1.0,)
  c.eval.flip = False
  c.eval.boundary_share = 0.02  # of the diagonal, for boundary IoU
  # Whole images are padded to a multiple of this, plus the offset: 1 keeps the
  # grids of 'symmetric' padding and aligned corners aligned.
  c.eval.pad_multiple = 32
  c.eval.pad_offset = 0
  # The size of an exported file (H, W); a static-size evaluation resizes.
  c.eval.static_size = (257, 257)

  # Records.
  c.log_every_steps = 20
  # '100:110' records where the time of steps 100 to 109 goes, for TensorBoard.
  c.profile_steps = ''
  c.checkpoint = ConfigDict()
  c.checkpoint.every_steps = 500
  c.checkpoint.keep_latest = 2
  c.checkpoint.keep_best = 1
  return c


def finalize_config(c: ConfigDict) -> ConfigDict:
  """Returns the config, whole and locked.

  Raises:
    ValueError: an encoder or a head has a field that its class has not.
  """
  registry.fill_defaults(c.model)
  return c.lock()


def parse_variant(
  c: ConfigDict, variant: str, **choices: Iterable[str]
) -> dict[str, str]:
  """Reads a variant: tokens with commas between, at most one of each choice.

  They are added to the config's name, in the order of the choices. A choice's
  first token holds where the variant has none of it, and adds no word.

  Args:
    c: the config, named after its page.
    variant: such as 'r101,80k'; '' is the page's default.
    **choices: tokens of each choice; '' is the choice of nothing.

  Returns:
    The token of each choice.

  Raises:
    ValueError: a token is unknown, or two are of one choice.
  """
  options = {name: tuple(tokens) for name, tokens in choices.items()}
  owner = {token: name for name, all_ in options.items() for token in all_}
  chosen: dict[str, str] = {}
  for token in variant.split(',') if variant else ():
    if token not in owner or not token:
      raise ValueError(
        f'variant {token!r} is unknown; this config has '
        f'{sorted(filter(None, owner))}'
      )
    if owner[token] in chosen:
      words = ', '.join(filter(None, options[owner[token]]))
      raise ValueError(f'variant {variant!r} names two of {words}: give one')
    chosen[owner[token]] = token
  for name, tokens in options.items():
    if chosen.setdefault(name, tokens[0]) != tokens[0]:
      c.name += f'_{chosen[name]}'
  return chosen


# The choice of how evaluation looks at an image; see
# `set_test_time_augmentation`.
TTA_VARIANTS = ('', 'flip', 'ms')
# Of mmsegmentation and TF DeepLab.
TTA_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


def set_test_time_augmentation(
  c: ConfigDict, chosen: str, scales: tuple[float, ...] = TTA_SCALES
) -> None:
  """Sets the views that evaluation averages: the protocols of the tables.

  A run in one view is evaluated in several by
  `--mode=evaluate --workdir=RUN --config=PAGE:VARIANT,ms`.

  Args:
    c: the config, whose `eval.fit` is that of one view.
    chosen: one of `TTA_VARIANTS`: '' looks once; 'flip' at the mirrored image
      too; 'ms' at both, at each scale of the image's own size.
    scales: of 'ms'.
  """
  if chosen:
    c.eval.flip = True
  if chosen == 'ms':
    c.eval.scales = scales
    c.eval.fit = ()


def set_sizes(
  c: ConfigDict,
  crop: tuple[int, int],
  export: tuple[int, int] | None = None,
) -> None:
  """Sets (H, W) of the crops, of an export and of a sliding evaluation.

  Args:
    c: the config.
    crop: size of crops and windows, a third of which overlaps the next one.
    export: size of an exported file; None for that of the crop.
  """
  c.data.augment.random_crop.size = crop
  c.eval.window = crop
  c.eval.stride = (round(crop[0] * 2 / 3), round(crop[1] * 2 / 3))
  c.eval.static_size = export or crop


def shrink_to_smoke_test(c: ConfigDict, *, encoder: str, **head: Any) -> None:
  """Shrinks a config to a run of seconds: a tiny encoder, small crops, 6 steps.

  It runs on `shapes` unless its own data is there.

  Args:
    c: the config.
    encoder: name of the family's tiny encoder.
    **head: fields of the head to replace, its channels for instance.
  """
  # It starts from nothing, and so cannot be a stage that goes on.
  c.init_from = c.init_skip = ''
  c.quantization.name = 'none'
  c.data.fallback = 'shapes'
  c.data.augment.ops = ('random_scale', 'random_crop', 'random_flip')
  c.data.augment.random_crop.padded = True
  set_sizes(c, (65, 65), export=(64, 64))
  c.model.encoder = ConfigDict({'name': encoder})
  c.model.head.update(head)
  c.batch_size = 4
  c.total_steps = 6
  c.schedule.warmup_steps = 2
  c.schedule.warmup_epochs = 0.0
  c.optimizer.learning_rate = 3e-3
  c.eval.every_epochs = 1.0
  if c.eval.mode == 'static':
    c.eval.mode = 'whole'
  c.eval.fit = ()
  c.eval.resize_labels = False
  c.eval.batch_size = 16
  c.log_every_steps = 2
  c.checkpoint.every_steps = 2
  # Real convolutions compile in half the time, and six steps do not care.
  c.model.depthwise = 'conv'
  c.model.pointwise = 'conv'

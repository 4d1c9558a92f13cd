"""Defaults of every config field, and helpers for config pages.

A config page starts from `default_config()`, parses its variant with
`parse_variant()`, sets the fields that its experiment changes, and ends with
`finalize_config()`, which fills in every field of the chosen encoder and heads.
A run's `config.json` is therefore complete, and any field can be overridden on
the command line. Settings that the pages of one source share are in `recipes/`.
"""

from collections.abc import Iterable
from typing import Any

from ml_collections import ConfigDict

from deeplab.models import registry


def default_config() -> ConfigDict:
  """Returns the default config."""
  c = ConfigDict()
  c.name = 'base'
  c.seed = 0

  # Data. `mean` and `std` have one value per channel, in the units of the
  # pixels (0..255, or 0..65535 for 16-bit images).
  c.data = ConfigDict()
  c.data.name = 'shapes'
  c.data.data_dir = ''  # prepared records; '': ~/tensorflow_datasets
  c.data.root = ''  # folder of the raw data set
  c.data.fallback = ''  # data set to use where this one is absent
  c.data.train_split = 'train'
  c.data.eval_split = 'val'
  c.data.mean = (123.675, 116.28, 103.53)
  c.data.std = (58.395, 57.12, 57.375)
  # Augmentation: `ops` run in this order; parameters are under an op's name.
  c.data.augment = ConfigDict()
  c.data.augment.ops = ('random_scale', 'random_crop', 'random_flip')
  # How images are downscaled: 'area' averages the covered pixels, 'bilinear'
  # does not (nor does evaluation at a static size).
  c.data.augment.shrink = 'area'
  # Where nearest-neighbor resizing of labels samples a pixel: at its 'center',
  # or at its 'corner' as OpenCV does, which most sources use.
  c.data.augment.nearest = 'center'
  # Value of padded pixels, one per channel; (): `mean`.
  c.data.augment.fill = ()
  c.data.augment.random_scale = ConfigDict(
    {'low': 0.5, 'high': 2.0, 'step': 0.0}  # 0: any factor in between
  )
  # Resized to fit into (long, short), times a random factor.
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
      'max_class_share': 1.0,  # 1: accept any crop
      # False: smaller images are not padded, for a `pad` op that comes later.
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
  c.data.threads = 0  # threads that read and augment; 0: one per core
  c.data.prefetch = 4  # batches to prefetch; at least `threads`
  # True: decode once and keep the split in memory (4 bytes per pixel).
  c.data.cache = False

  # Model.
  c.model = ConfigDict()
  c.model.encoder = ConfigDict({'name': 'mobilenet_v2'})
  c.model.head = ConfigDict({'name': 'deeplabv3plus'})
  c.model.auxiliary = ConfigDict({'name': 'none'})
  c.model.output_stride = 16
  c.model.multi_grid = (1, 1, 1)
  # Largest ratio of one resize; larger ones run in stages. 0: no limit. The
  # Ethos-U55 supports 2.
  c.model.resize_ratio = 0
  c.model.dtype = 'float32'  # or 'bfloat16'
  # Rematerialization: the first `remat` stages of the encoder keep only the
  # inputs of their blocks and recompute the rest in the backward pass, which
  # saves memory for one more forward pass. 0: none; 5: all. (No effect on CPU.)
  c.model.remat = 0
  # True: BatchNorm uses the statistics of `init_from`, for batches too small to
  # estimate them; scales and offsets are still trained. (Runs in simulated int8
  # have `quantization.frozen_norms`.)
  c.model.frozen_norms = False
  # True: the running variance of BatchNorm is n / (n - 1) times that of a batch
  # of n pixels, as in PyTorch and TensorFlow.
  c.model.unbiased_variance = False
  # Standard deviation of the classifier's random kernel. 0: Glorot's.
  c.model.classifier_stddev = 0.0
  # Kernels on a CPU; accelerators always use 'conv'.
  c.model.depthwise = 'shifted'
  c.model.pointwise = 'matmul'

  # Weights to start from: a published name ('torchvision:resnet50'), a file, or
  # a work directory (deeplab/pretrained/resolve.py). '': random.
  c.init_from = ''
  # Regex of parameters to initialize randomly all the same, and of tensors of
  # the file to leave out ('head/classifier/.*'); matches whole paths. '': none.
  c.init_skip = ''

  # Quantization: 'int8' is quantization-aware training from the float weights
  # of `init_from`. An export takes the fields from `float_layers` to
  # `calibration` as its defaults.
  c.quantization = ConfigDict()
  c.quantization.name = 'none'
  c.quantization.float_layers = ''  # regex of whole module paths: 'head/.*'
  c.quantization.wide_layers = ''  # the same for int16 activations
  c.quantization.weights = 'channel'  # one scale per 'channel' or 'tensor'
  # True: scales are powers of two, and zero points 0.
  c.quantization.power_of_two = False
  c.quantization.calibration = ConfigDict(
    {
      'images': 64,
      'method': 'mse',  # or 'minmax', 'average', 'percentile'
      'percentile': 99.99,
      # Cross-layer equalization of the channels that depthwise kernels read;
      # not with one weight scale per 'tensor'.
      'equalize': True,
      # Rounding of kernels: 'least_squares' is GPTQ; or 'nearest'.
      'rounding': 'least_squares',
    }
  )
  c.quantization.frozen_norms = True  # BatchNorm statistics stay fixed
  # Activation ranges are moving averages with this decay, and are frozen from
  # step `range_steps` on (0: never).
  c.quantization.range_decay = 0.99
  c.quantization.range_steps = 0

  # Loss: the sum of `terms`; the weight and parameters of a term are under its
  # name.
  c.loss = ConfigDict()
  c.loss.terms = ('cross_entropy',)
  c.loss.auxiliary_terms = ()  # of auxiliary outputs; (): `terms`
  c.loss.cross_entropy = ConfigDict({'weight': 1.0})
  c.loss.sigmoid_cross_entropy = ConfigDict({'weight': 1.0})
  c.loss.focal = ConfigDict({'weight': 1.0, 'gamma': 2.0})
  c.loss.ohem = ConfigDict(
    {
      'weight': 1.0,
      'threshold': 0.0,  # probability; 0: keep `min_kept` largest losses
      'min_kept': 100_000,  # pixels per image, averaged over the batch
    }
  )
  # Hard example mining: the hardest `share` of all pixels; it falls from 1 to
  # `share` within `ramp_steps`.
  c.loss.hardest = ConfigDict({'weight': 1.0, 'share': 0.25, 'ramp_steps': 0})
  c.loss.dice = ConfigDict({'weight': 1.0, 'smooth': 1.0})
  c.loss.tversky = ConfigDict(
    {'weight': 1.0, 'alpha': 0.3, 'beta': 0.7, 'gamma': 1.0, 'smooth': 1.0}
  )
  c.loss.lovasz = ConfigDict({'weight': 1.0})
  # Divide by the number of 'valid' pixels, of 'all', or by the sum of 'weight'.
  c.loss.normalizer = 'valid'
  c.loss.class_weights = ()  # one per class; (): 1
  # Class weights from the frequencies of the training split, to this power.
  # 0: none; 0.5: mild; 1: all classes count alike.
  c.loss.balance = 0.0
  # 'inverse' frequency (mean over pixels 1), 'median' frequency, or the 'log'
  # rule of ENet (arXiv:1606.02147).
  c.loss.balance_rule = 'inverse'
  # Share of steps, drawn at random, in which class weights apply.
  c.loss.weighted_steps = 1.0
  c.loss.auxiliary_weight = 0.4  # weight of each auxiliary output

  # Optimizer and schedule.
  c.batch_size = 8  # global: summed over devices
  c.accumulate_steps = 1
  c.total_steps = 0  # 0: from `epochs`
  c.epochs = 30.0
  c.optimizer = ConfigDict()
  c.optimizer.name = 'adamw'
  c.optimizer.learning_rate = 1e-3
  c.optimizer.weight_decay = 1e-2
  c.optimizer.decay_mask = '.*/kernel$'  # regex of decayed parameter paths
  # Factors of the learning rate; `bias_multiplier` applies to biases on top of
  # the others, but not to those of BatchNorm.
  c.optimizer.encoder_multiplier = 1.0
  c.optimizer.head_multiplier = 1.0
  c.optimizer.auxiliary_multiplier = 1.0
  c.optimizer.bias_multiplier = 1.0
  c.optimizer.clip_norm = 0.0  # 0: no clipping
  c.optimizer.sgd = ConfigDict({'momentum': 0.9, 'nesterov': False})
  c.optimizer.adam = ConfigDict({'b1': 0.9, 'b2': 0.999, 'epsilon': 1e-8})
  c.optimizer.adamw = ConfigDict({'b1': 0.9, 'b2': 0.999})
  c.schedule = ConfigDict()
  c.schedule.name = 'poly'
  c.schedule.warmup_steps = 100
  c.schedule.warmup_epochs = 0.0  # instead of `warmup_steps`, with `epochs`
  c.schedule.warmup = 'linear'  # or 'constant'
  c.schedule.warmup_start = 0.0  # first factor; 0: (t + 1) / warmup_steps
  c.schedule.warmup_first = False  # True: the schedule starts after warm-up
  c.schedule.poly = ConfigDict({'power': 0.9, 'end': 0.0})
  c.schedule.cosine = ConfigDict({'end': 0.0})
  c.schedule.step = ConfigDict({'milestones': (0.6, 0.8), 'gamma': 0.1})
  c.schedule.one_cycle = ConfigDict({'rise': 0.3, 'start': 0.04, 'end': 4e-6})
  # Multiply by `factor` after `patience` evaluations without a better `metric`.
  c.schedule.plateau = ConfigDict(
    {
      'metric': 'miou',
      'patience': 10,
      'factor': 0.5,
      'min_delta': 1e-4,
      'end': 1e-6,  # the lowest rate
    }
  )
  c.ema_decay = 0.0  # exponential moving average of the weights; 0: none
  # Early stopping: after `patience` evaluations without a better `metric` (0:
  # never), or at the first log step after `max_minutes` of training and
  # evaluation, summed over restarts (0: no limit). Schedules ignore both.
  c.early_stopping = ConfigDict(
    {'metric': 'miou', 'patience': 0, 'min_delta': 0.0}
  )
  c.max_minutes = 0.0

  # Evaluation.
  c.eval = ConfigDict()
  c.eval.every_epochs = 10.0
  c.eval.batch_size = 4
  c.eval.output_stride = 0  # evaluate at another output stride; 0: the model's
  # 'whole' images, 'slide' (sliding window), or 'static' (resized to
  # `static_size`, the output resized back).
  c.eval.mode = 'whole'
  # (H, W) of a sliding window; it grows to the next size of `pad_multiple`.
  c.eval.window = (257, 257)
  c.eval.stride = (171, 171)  # between windows, which overlap by a third
  # Images are first resized to fit into (long, short); (): no resize.
  # mmsegmentation uses (2048, 512) on ADE20K and VOC for single-scale tests.
  c.eval.fit = ()
  # True: labels are resized with the images, and metrics computed at that size
  # (torchvision, STM32 model zoo). False: at the size of the data set.
  c.eval.resize_labels = False
  # True: also the unweighted cross entropy (of sigmoids where `loss.terms` has
  # them), which copies logits from the device.
  c.eval.loss = False
  c.eval.scales = (1.0,)
  c.eval.flip = False
  c.eval.boundary_share = 0.02  # width of boundary IoU, of the diagonal
  # Whole images are padded to a multiple of `pad_multiple`, plus `pad_offset`,
  # and windows grow to it: an offset of 1 keeps the grids of 'symmetric'
  # padding and of aligned corners aligned. Choose the form of the training
  # crops: on images of another the outputs are shifted by some pixels.
  c.eval.pad_multiple = 32
  c.eval.pad_offset = 0
  # (H, W) that images are padded to at least, before views, windows and
  # anything else: the canvas of TF DeepLab, which image pooling sees. (): none.
  c.eval.pad_size = ()
  # Share of pixels that more padding may add to the images of a split, so that
  # few sizes are compiled; lowers scores, by points where images are small.
  # 0: none, exact.
  c.eval.max_padding = 0.0
  # (H, W) of an exported file and of evaluation in mode 'static'.
  c.eval.static_size = (257, 257)

  # Logs, profiles and checkpoints.
  c.log_every_steps = 20
  # '100:110' profiles steps 100 to 109 for TensorBoard.
  c.profile_steps = ''
  c.checkpoint = ConfigDict()
  c.checkpoint.every_steps = 500
  c.checkpoint.keep_latest = 2
  c.checkpoint.keep_best = 1
  return c


def finalize_config(c: ConfigDict) -> ConfigDict:
  """Fills in the fields of encoder and heads, and locks the config.

  Raises:
    ValueError: an encoder or a head is given a field that its class lacks.
  """
  registry.fill_defaults(c.model)
  return c.lock()


def parse_variant(
  c: ConfigDict, variant: str, **choices: Iterable[str]
) -> dict[str, str]:
  """Parses a variant: comma-separated tokens, at most one of each choice.

  Tokens are appended to the config's name, in the order of the choices. The
  first token of a choice is its default and is not appended.

  Args:
    c: the config, named after its page.
    variant: such as 'r101,80k'; '': all defaults.
    **choices: tokens of each choice; '' is the choice of none.

  Returns:
    The token of each choice.

  Raises:
    ValueError: a token is unknown, or two belong to one choice.
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


# Tokens of test-time augmentation.
TTA_VARIANTS = ('', 'flip', 'ms')
# Scales of mmsegmentation and TF DeepLab.
TTA_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


def set_test_time_augmentation(
  c: ConfigDict, chosen: str, scales: tuple[float, ...] = TTA_SCALES
) -> None:
  """Sets the views that evaluation averages, as in the published tables.

  A trained run is evaluated with several views by
  `--mode=evaluate --workdir=RUN --config=PAGE:VARIANT,ms`.

  Args:
    c: the config; its `eval.fit` applies to single-scale evaluation only.
    chosen: one of `TTA_VARIANTS`: '' is one view; 'flip' adds the mirrored
      image; 'ms' evaluates both at each scale of the image's own size.
    scales: the scales of 'ms'.
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
  """Sets (H, W) of crops, of sliding windows and of the exported file.

  Args:
    c: the config.
    crop: (H, W) of crops and windows; windows overlap by a third.
    export: (H, W) of the exported file; None for that of the crop.
  """
  c.data.augment.random_crop.size = crop
  c.eval.window = crop
  c.eval.stride = (round(crop[0] * 2 / 3), round(crop[1] * 2 / 3))
  c.eval.static_size = export or crop


def shrink_to_smoke_test(c: ConfigDict, *, encoder: str, **head: Any) -> None:
  """Shrinks a config to a run of seconds: a tiny encoder, small crops, 6 steps.

  It trains on `shapes` where the data set of the page is absent.

  Args:
    c: the config.
    encoder: name of the tiny encoder of the family.
    **head: fields of the head to replace, such as its channels.

  Raises:
    ValueError: the config trains in simulated int8, which needs a trained run.
  """
  if c.quantization.name != 'none':
    raise ValueError(
      "variant 'smoke' starts from random weights and 'qat' from a trained "
      'run; choose one of them'
    )
  c.init_from = c.init_skip = ''
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
  c.eval.pad_size = ()
  c.eval.resize_labels = False
  c.eval.batch_size = 16
  c.log_every_steps = 2
  c.checkpoint.every_steps = 2
  # 'conv' compiles in half the time; speed does not matter for six steps.
  c.model.depthwise = 'conv'
  c.model.pointwise = 'conv'

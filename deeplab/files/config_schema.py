"""Form of a run's stored config: which fields there are, of which type.

`configs/common.py` says what each field means and has its default; a new field
needs a line here, too. Fields of encoders and heads are checked by the defaults
of their classes.
"""

from collections.abc import Iterable
from collections.abc import Mapping
import functools
from typing import Any

from deeplab.files import json_files
from deeplab.models import registry

_TEXT, _FLAG, _NUMBER = json_files.TEXT, json_files.FLAG, json_files.NUMBER
_SHARE, _SIZE = json_files.SHARE, json_files.SIZE
_COUNT = json_files.integer(0, 2**31 - 1)
_POSITIVE = json_files.number(0, 1e9)
_PAIR = json_files.array(_SIZE, 2)
_OPTIONAL_PAIR = {
  **json_files.array(_SIZE, 0, 2),
  'not': {'minItems': 1, 'maxItems': 1},
}
_RANGE = json_files.array(_NUMBER, 2)
_TEXTS = json_files.array(_TEXT)
# Part of the default path of a work directory.
_NAME = {'type': 'string', 'pattern': r'^[^/\\\x00-\x1f]{1,200}$'}
_CHANNELS = json_files.array(json_files.number(-65535, 65535), 1, 1024)

# Schema of each field by its path.
FIELDS: Mapping[str, json_files.Schema] = {
  'name': _NAME,
  'seed': json_files.integer(0, 2**63 - 1),
  'data.name': _TEXT,
  'data.data_dir': _TEXT,
  'data.root': _TEXT,
  'data.fallback': _TEXT,
  'data.train_split': _TEXT,
  'data.eval_split': _TEXT,
  'data.mean': _CHANNELS,
  'data.std': json_files.array(json_files.number(1e-6, 65535), 1, 1024),
  'data.threads': json_files.integer(0, 4096),
  'data.prefetch': json_files.integer(0, 65536),
  'data.cache': _FLAG,
  'data.augment.ops': _TEXTS,
  'data.augment.shrink': _TEXT,
  'data.augment.nearest': _TEXT,
  'data.augment.fill': json_files.array(_NUMBER, 0, 1024),
  'data.augment.random_scale.low': _NUMBER,
  'data.augment.random_scale.high': _NUMBER,
  'data.augment.random_scale.step': _NUMBER,
  'data.augment.random_fit.low': _NUMBER,
  'data.augment.random_fit.high': _NUMBER,
  'data.augment.random_fit.long': _SIZE,
  'data.augment.random_fit.short': _SIZE,
  'data.augment.random_short_side.low': _SIZE,
  'data.augment.random_short_side.high': _SIZE,
  'data.augment.random_stretch.low': _NUMBER,
  'data.augment.random_stretch.high': _NUMBER,
  'data.augment.random_stretch.probability': _SHARE,
  'data.augment.stretch.size': _PAIR,
  'data.augment.random_window.share': _RANGE,
  'data.augment.random_window.center': _RANGE,
  'data.augment.random_window.probability': _SHARE,
  'data.augment.random_crop.size': _PAIR,
  'data.augment.random_crop.max_class_share': _SHARE,
  'data.augment.random_crop.padded': _FLAG,
  'data.augment.random_flip.probability': _SHARE,
  'data.augment.random_flip_vertical.probability': _SHARE,
  'data.augment.random_rotate.degrees': _NUMBER,
  'data.augment.random_rotate.probability': _SHARE,
  'data.augment.photometric.brightness': _NUMBER,
  'data.augment.photometric.contrast': _RANGE,
  'data.augment.photometric.saturation': _RANGE,
  'data.augment.photometric.hue': _NUMBER,
  'data.augment.distort.brightness': _NUMBER,
  'data.augment.distort.contrast': _NUMBER,
  'data.augment.distort.saturation': _NUMBER,
  'data.augment.distort.hue': _NUMBER,
  'data.augment.distort.probability': _SHARE,
  'data.augment.brightness_contrast.brightness': _NUMBER,
  'data.augment.brightness_contrast.contrast': _NUMBER,
  'data.augment.pad.size': _OPTIONAL_PAIR,
  # Of `configs/recipes/folder.py`.
  'data.num_classes': json_files.integer(1, 255),
  'data.ignore_label': json_files.integer(-1, 65535),
  'data.id_map': _TEXT,
  'data.class_names': _TEXTS,
  'data.color_map': json_files.array(
    json_files.array(json_files.integer(0, 255), 3)
  ),
  'data.images': _TEXT,
  'data.labels': _TEXT,
  'data.pool': _TEXT,
  'data.pool_share': _SHARE,
  'data.pool_seed': _COUNT,
  'data.depth': {'enum': [8, 16]},
  'model.encoder.name': _TEXT,
  'model.head.name': _TEXT,
  'model.auxiliary.name': _TEXT,
  'model.output_stride': json_files.integer(1, 64),
  'model.multi_grid': json_files.array(json_files.integer(1, 256), 1, 16),
  'model.resize_ratio': json_files.integer(0, 1024),
  'model.dtype': {'enum': ['float32', 'bfloat16']},
  'model.remat': json_files.integer(0, 16),
  'model.frozen_norms': _FLAG,
  'model.unbiased_variance': _FLAG,
  'model.classifier_stddev': _SHARE,
  'model.depthwise': _TEXT,
  'model.pointwise': _TEXT,
  'init_from': _TEXT,
  'init_skip': _TEXT,
  'quantization.name': {'enum': ['none', 'int8']},
  'quantization.float_layers': _TEXT,
  'quantization.wide_layers': _TEXT,
  'quantization.weights': {'enum': ['channel', 'tensor']},
  'quantization.power_of_two': _FLAG,
  'quantization.calibration.images': _COUNT,
  'quantization.calibration.method': _TEXT,
  'quantization.calibration.percentile': json_files.number(0, 100),
  'quantization.calibration.equalize': _FLAG,
  'quantization.calibration.rounding': _TEXT,
  'quantization.frozen_norms': _FLAG,
  'quantization.range_decay': _SHARE,
  'quantization.range_steps': _COUNT,
  'loss.terms': _TEXTS,
  'loss.auxiliary_terms': _TEXTS,
  'loss.cross_entropy.weight': _NUMBER,
  'loss.sigmoid_cross_entropy.weight': _NUMBER,
  'loss.focal.weight': _NUMBER,
  'loss.focal.gamma': _NUMBER,
  'loss.ohem.weight': _NUMBER,
  'loss.ohem.threshold': _SHARE,
  'loss.ohem.min_kept': _COUNT,
  'loss.hardest.weight': _NUMBER,
  'loss.hardest.share': _SHARE,
  'loss.hardest.ramp_steps': _COUNT,
  'loss.dice.weight': _NUMBER,
  'loss.dice.smooth': _NUMBER,
  'loss.tversky.weight': _NUMBER,
  'loss.tversky.alpha': _NUMBER,
  'loss.tversky.beta': _NUMBER,
  'loss.tversky.gamma': _NUMBER,
  'loss.tversky.smooth': _NUMBER,
  'loss.lovasz.weight': _NUMBER,
  'loss.normalizer': {'enum': ['valid', 'all', 'weight']},
  'loss.class_weights': json_files.array(_NUMBER, 0, 255),
  'loss.balance': _NUMBER,
  'loss.balance_rule': _TEXT,
  'loss.weighted_steps': _SHARE,
  'loss.auxiliary_weight': _NUMBER,
  'batch_size': _COUNT,
  'accumulate_steps': _COUNT,
  'total_steps': _COUNT,
  'epochs': _POSITIVE,
  'optimizer.name': _TEXT,
  'optimizer.learning_rate': _NUMBER,
  'optimizer.weight_decay': _NUMBER,
  'optimizer.decay_mask': _TEXT,
  'optimizer.encoder_multiplier': _NUMBER,
  'optimizer.head_multiplier': _NUMBER,
  'optimizer.auxiliary_multiplier': _NUMBER,
  'optimizer.bias_multiplier': _NUMBER,
  'optimizer.clip_norm': _NUMBER,
  'optimizer.sgd.momentum': _NUMBER,
  'optimizer.sgd.nesterov': _FLAG,
  'optimizer.adam.b1': _NUMBER,
  'optimizer.adam.b2': _NUMBER,
  'optimizer.adam.epsilon': _NUMBER,
  'optimizer.adamw.b1': _NUMBER,
  'optimizer.adamw.b2': _NUMBER,
  'schedule.name': _TEXT,
  'schedule.warmup_steps': _COUNT,
  'schedule.warmup_epochs': _POSITIVE,
  'schedule.warmup': _TEXT,
  'schedule.warmup_start': _NUMBER,
  'schedule.warmup_first': _FLAG,
  'schedule.poly.power': _NUMBER,
  'schedule.poly.end': _NUMBER,
  'schedule.cosine.end': _NUMBER,
  'schedule.step.milestones': json_files.array(_NUMBER),
  'schedule.step.gamma': _NUMBER,
  'schedule.one_cycle.rise': _NUMBER,
  'schedule.one_cycle.start': _NUMBER,
  'schedule.one_cycle.end': _NUMBER,
  'schedule.plateau.metric': _TEXT,
  'schedule.plateau.patience': _COUNT,
  'schedule.plateau.factor': _NUMBER,
  'schedule.plateau.min_delta': _NUMBER,
  'schedule.plateau.end': _NUMBER,
  'ema_decay': _SHARE,
  'early_stopping.metric': _TEXT,
  'early_stopping.patience': _COUNT,
  'early_stopping.min_delta': _NUMBER,
  'max_minutes': _POSITIVE,
  'eval.every_epochs': _POSITIVE,
  'eval.batch_size': _SIZE,
  'eval.output_stride': json_files.integer(0, 64),
  'eval.mode': {'enum': ['whole', 'slide', 'static']},
  'eval.window': _PAIR,
  'eval.stride': _PAIR,
  'eval.fit': _OPTIONAL_PAIR,
  'eval.resize_labels': _FLAG,
  'eval.loss': _FLAG,
  'eval.scales': json_files.array(json_files.number(1e-3, 100), 1, 64),
  'eval.flip': _FLAG,
  'eval.boundary_share': _SHARE,
  'eval.pad_multiple': json_files.integer(1, 4096),
  'eval.pad_offset': json_files.integer(0, 4096),
  'eval.pad_size': _OPTIONAL_PAIR,
  'eval.max_padding': _SHARE,
  'eval.static_size': _PAIR,
  'log_every_steps': _COUNT,
  'profile_steps': _TEXT,
  'checkpoint.every_steps': _COUNT,
  'checkpoint.keep_latest': _COUNT,
  'checkpoint.keep_best': _COUNT,
}

_SECTIONS = {
  path[:end] for path in FIELDS for end, c in enumerate(path) if c == '.'
}
# Sections of which a config selects some by the names in other fields. Those
# that it does not select may be absent.
_SELECTED_BY = {
  'data.augment': ('data.augment.ops',),
  'loss': ('loss.terms', 'loss.auxiliary_terms'),
  'optimizer': ('optimizer.name',),
  'schedule': ('schedule.name',),
}
# Fields of a folder of images, and of one that is split here or deep.
_OF_FOLDERS = (
  *('data.num_classes', 'data.ignore_label', 'data.class_names'),
  'data.color_map',
)
_OF_DATA_SETS = (
  *_OF_FOLDERS,
  *('data.images', 'data.labels', 'data.depth', 'data.id_map'),
  *('data.pool', 'data.pool_share', 'data.pool_seed'),
)


def flatten(value: Any, max_depth: int = 6) -> dict[str, Any]:
  """Returns the values of all fields by their paths.

  Args:
    value: the config as JSON holds it.
    max_depth: the largest number of names in a path.

  Raises:
    ValueError: it is no object, nests too deeply, or a key is no name of a
      field.
  """
  if not isinstance(value, dict):
    raise ValueError('it must be an object')
  if not max_depth:
    raise ValueError('it has too many sections within each other')
  fields: dict[str, Any] = {}
  for key, item in value.items():
    if not key.isidentifier():
      raise ValueError(f'{key[:60]!r} is no name of a field')
    if isinstance(item, dict) and item:
      inner = flatten(item, max_depth - 1)
      fields |= {f'{key}.{path}': x for path, x in inner.items()}
    else:
      fields[key] = item
  return fields


def unflatten(fields: Mapping[str, Any]) -> dict[str, Any]:
  """Returns nested sections from values by path."""
  nested: dict[str, Any] = {}
  for path, value in fields.items():
    *sections, name = path.split('.')
    section = nested
    for part in sections:
      section = section.setdefault(part, {})
    section[name] = value
  return nested


def alternative_section(path: str) -> str:
  """Returns the section that other fields select, such as 'loss.focal'.

  Args:
    path: of a field, such as 'loss.focal.gamma'; '' is returned for a field
      that every config reads.
  """
  for section in _SELECTED_BY:
    rest = path.removeprefix(f'{section}.')
    if rest != path and '.' in rest:
      return f'{section}.{rest.split(".")[0]}'
  return ''


def selectors(section: str) -> tuple[str, ...]:
  """Returns the fields that may select a section such as 'loss.focal'."""
  return _SELECTED_BY[section.rpartition('.')[0]]


def selected_sections(fields: Mapping[str, Any]) -> set[str]:
  """Returns the sections that a config selects by name: {'loss.focal'}.

  Args:
    fields: values by path.
  """
  selected = set()
  for section, selectors in _SELECTED_BY.items():
    for selector in selectors:
      names = fields.get(selector, ())
      names = (names,) if isinstance(names, str) else names
      selected |= {f'{section}.{name}' for name in names}
  return selected


@functools.cache
def _check_fields(optional: frozenset[str]) -> json_files.Validate:
  """Returns the check of the fields that do not depend on others."""
  return json_files.compile_schema(
    {
      'type': 'object',
      'properties': dict(FIELDS),
      'required': [
        path
        for path in FIELDS
        if path not in optional
        and path not in _OF_DATA_SETS
        and not alternative_section(path)
      ],
    }
  )


def check_config(
  fields: dict[str, Any], optional: Iterable[str] = ()
) -> dict[str, Any]:
  """Checks names, types and limits of the fields of a stored config.

  Args:
    fields: values by path, of `flatten`.
    optional: paths that may be absent.

  Returns:
    The fields, with int and float as the fields have them: 3.0 may be 3.

  Raises:
    ValueError: half a sentence that names the field.
  """
  optional = frozenset(optional)
  for path, value in fields.items():
    section = path.rpartition('.')[0]
    if section in FIELDS:
      raise ValueError(f'{section} must be a field, not a section')
    if path in _SECTIONS and value != {}:
      raise ValueError(f'{path} must be a section, not a field')
  _check_fields(optional)(fields)
  selected = selected_sections(fields)
  missing = [
    path
    for path in FIELDS
    if path not in fields
    and path not in optional
    and (
      alternative_section(path) in selected
      or (path in _OF_FOLDERS and fields['data.name'] == 'folder')
    )
  ]
  if missing:
    raise ValueError(f'it lacks {", ".join(missing)}')
  if len(fields['data.mean']) != len(fields['data.std']):
    raise ValueError('data.mean and data.std have different lengths')
  for slot, classes in registry.SLOTS.items():
    _check_component(slot, classes, fields)
  return {
    path: _convert_numbers(value, FIELDS[path]) if path in FIELDS else value
    for path, value in fields.items()
  }


def _convert_numbers(value: Any, schema: json_files.Schema) -> Any:
  """Converts numbers to the type of the schema, also those in lists."""
  if schema.get('type') == 'array':
    return [_convert_numbers(item, schema['items']) for item in value]
  convert = {'integer': int, 'number': float}.get(schema.get('type', ''))
  return convert(value) if convert else value


def _check_component(
  slot: str, classes: Mapping[str, Any], fields: Mapping[str, Any]
) -> None:
  """Checks the fields of an encoder or a head by its class's defaults."""
  prefix = f'model.{slot}.'
  name = fields[f'{prefix}name']
  if name not in classes:
    raise ValueError(f'{prefix}name is {name!r}, of {sorted(classes)}')
  defaults = classes[name] and registry.config_fields(classes[name])
  for path, value in fields.items():
    field = path.removeprefix(prefix)
    if field in (path, 'name'):
      continue
    if not defaults or field not in defaults:
      raise ValueError(f'{name} has no field {path}')
    if not _is_like(value, defaults[field]):
      raise ValueError(f'{path} must be like {defaults[field]!r}')


def _is_like(value: Any, default: Any) -> bool:
  """Returns True for a value of JSON of a default's type and a sane size."""
  if isinstance(default, tuple):
    first = default[0] if default else 0
    return (
      isinstance(value, list)
      and len(value) <= 256
      and all(_is_like(item, first) for item in value)
    )
  if isinstance(default, bool) or isinstance(value, bool):
    return isinstance(default, bool) and isinstance(value, bool)
  if isinstance(default, str):
    return isinstance(value, str)
  kinds = int if isinstance(default, int) else (int, float)
  return isinstance(value, kinds) and abs(value) <= 1e5

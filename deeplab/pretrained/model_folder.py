"""Writes a trained model as a folder that works without its data and its run.

    model.safetensors   weights by our paths, 'params/encoder/stem/conv/kernel'
    config.json         the experiment, as in a work directory
    card.json           class names, step, mIoU, and the digest of the weights
    README.md           a description, with the front matter of model hubs

It is the layout of the Hugging Face Hub, from which `hf:USER/MODEL` is read.
"""

import math
import os
import pathlib

from flax import traverse_util

from deeplab import workdir as workdir_lib
from deeplab.files import json_files
from deeplab.files import output_files
from deeplab.pretrained.readers import safetensors

WEIGHTS_FILE = 'model.safetensors'
CONFIG_FILE = 'config.json'
CARD_FILE = 'card.json'
_DESCRIPTION_FILE = 'README.md'
_FILES = (WEIGHTS_FILE, CONFIG_FILE, CARD_FILE, _DESCRIPTION_FILE)
_check_card = json_files.compile_schema(
  json_files.record(
    {
      'sha256': json_files.TEXT,
      'classes': json_files.array(json_files.TEXT),
      'step': json_files.nullable(json_files.COUNT),
      'miou': json_files.nullable(json_files.SHARE),
    }
  )
)

_DESCRIPTION = """\
---
library_name: deeplab
pipeline_tag: image-segmentation
tags: [semantic-segmentation, jax, flax]
---

# {name}

{encoder} with the head {head}, output stride {output_stride}, for images of
{channels} channels of {depth} bits. {score}

    import deeplab
    model = deeplab.load({name!r})  # this folder, or 'hf:USER/MODEL'
    mask = model.predict('photo.jpg')  # uint8 [H, W]

Classes: {classes}.

The weights are in `{weights_file}`; `{config_file}` has the whole experiment.
"""


def is_model_folder(path: str | os.PathLike) -> bool:
  """Returns True for a folder that holds the weights or the card of a model."""
  folder = pathlib.Path(path)
  return any((folder / name).is_file() for name in (WEIGHTS_FILE, CARD_FILE))


def is_complete(path: str | os.PathLike) -> bool:
  """Returns True for a folder with all that `read_model_folder` reads."""
  folder = pathlib.Path(path)
  return all(
    (folder / name).is_file() for name in (WEIGHTS_FILE, CONFIG_FILE, CARD_FILE)
  )


def folder_of(path: str) -> str:
  """Returns the folder of a model whose weights file `path` is, else `path`."""
  folder = os.path.dirname(path) or '.'
  if os.path.basename(path) == WEIGHTS_FILE and is_complete(folder):
    return folder
  return path


def check_folder(folder: str | os.PathLike, overwrite: bool = False) -> None:
  """Checks that a model may be written to a folder, before one is loaded.

  Args:
    folder: the folder; it need not exist.
    overwrite: files that the project did not write may be replaced, too.

  Raises:
    ValueError: `folder` is a file, or holds files of these names that the
      project did not write.
  """
  output_files.OutputFiles(folder, overwrite=overwrite).check(_FILES)


def write_model_folder(
  model: workdir_lib.TrainedModel,
  folder: str | os.PathLike,
  overwrite: bool = False,
) -> None:
  """Writes a model; the card comes last and makes the folder complete.

  Args:
    model: the model.
    folder: a new folder, or that of a model that was saved before, which is
      replaced.
    overwrite: files that the project did not write may be replaced, too.

  Raises:
    ValueError: `folder` is a file, or holds files of these names that the
      project did not write.
  """
  files = output_files.OutputFiles(folder, overwrite=overwrite)
  files.check(_FILES)
  path = pathlib.Path(folder)
  (path / CARD_FILE).unlink(missing_ok=True)
  with files.replace(WEIGHTS_FILE) as temporary:
    safetensors.write_safetensors(
      temporary,
      traverse_util.flatten_dict(model.variables, sep='/'),
      {'format': 'deeplab'},
    )
  files.write_text(CONFIG_FILE, workdir_lib.config_text(model.config))
  info, spec = model.dataset.info, model.dataset.spec
  miou = None if math.isnan(model.miou) else float(model.miou)
  files.write_text(
    _DESCRIPTION_FILE,
    _DESCRIPTION.format(
      name=path.absolute().name,
      encoder=model.config.model.encoder.name,
      head=model.config.model.head.name,
      output_stride=model.config.model.output_stride,
      channels=spec.channels,
      depth=spec.depth,
      score='' if miou is None else f'mIoU {miou:.4f} on its own data.',
      classes=', '.join(info.class_names),
      weights_file=WEIGHTS_FILE,
      config_file=CONFIG_FILE,
    ),
  )
  files.write_json(
    CARD_FILE,
    {
      'sha256': output_files.hash_file(str(path / WEIGHTS_FILE)),
      'classes': list(info.class_names),
      'step': model.step,
      'miou': miou,
    },
  )


def read_model_folder(folder: str | os.PathLike) -> workdir_lib.TrainedModel:
  """Reads a model that `write_model_folder` wrote.

  Raises:
    ValueError: a file is missing, damaged or changed, or the config is of
      another version; the message names it.
  """
  path = pathlib.Path(folder)
  for name in (WEIGHTS_FILE, CONFIG_FILE, CARD_FILE):
    if not (path / name).is_file():
      raise ValueError(
        f'{path} has no {name}: a model folder has {WEIGHTS_FILE}, '
        f'{CONFIG_FILE} and {CARD_FILE}; write or download it again'
      )
  card = json_files.read_checked_json(
    path / CARD_FILE, _check_card, 'write or download the folder again'
  )
  weights = str(path / WEIGHTS_FILE)
  if output_files.hash_file(weights) != card['sha256']:
    raise ValueError(
      f'{weights} is not the file that {CARD_FILE} describes (its sha256 '
      'differs): write or download the folder again'
    )
  config = workdir_lib.read_config(str(path))
  dataset = workdir_lib.make_dataset(str(path), config)
  variables = traverse_util.unflatten_dict(
    safetensors.read_safetensors(weights), sep='/'
  )
  miou = float('nan') if card['miou'] is None else float(card['miou'])
  return workdir_lib.TrainedModel(
    config, dataset, variables, card['step'], miou
  )


def download_model_folder(repository: str) -> str:
  """Downloads a model from the Hugging Face Hub; a cached one is used again.

  Args:
    repository: 'USER/MODEL'.

  Returns:
    Path of the folder in the Hub's cache.

  Raises:
    ValueError: huggingface_hub is not installed.
    OSError: the Hub cannot be reached, or has no such model.
  """
  try:
    import huggingface_hub
  except ImportError:
    raise ValueError(
      f'hf:{repository} needs huggingface_hub (pip install huggingface_hub), '
      f'or download {WEIGHTS_FILE}, {CONFIG_FILE} and {CARD_FILE} into a '
      'folder and name the folder'
    ) from None
  try:
    return huggingface_hub.snapshot_download(
      repository, allow_patterns=list(_FILES)
    )
  except Exception as error:  # of many types, of the library and its client
    raise OSError(
      f'hf:{repository} cannot be downloaded ({type(error).__name__}): check '
      f'the name and the network, or download {WEIGHTS_FILE}, {CONFIG_FILE} '
      f'and {CARD_FILE} of https://huggingface.co/{repository} into a folder '
      'and name the folder'
    ) from error

"""Each source's recipe, as its own pages give it, number by number."""

import numpy as np
import pytest

from deeplab.inference import views
from experiments import zoo_rows
from tests import configs_test
from tests.inference import views_test

MMSEG = {
  'optimizer.name': 'sgd',
  'optimizer.learning_rate': 0.01,
  'optimizer.sgd.momentum': 0.9,
  'optimizer.sgd.nesterov': False,
  'optimizer.weight_decay': 5e-4,
  'optimizer.decay_mask': '.*',
  'schedule.name': 'poly',
  'schedule.poly.power': 0.9,
  'schedule.poly.end': 1e-4,
  'schedule.warmup_steps': 0,
  'schedule.warmup_epochs': 0.0,
  'batch_size': 16,
  'loss.terms': ('cross_entropy',),
  'loss.normalizer': 'all',
  'loss.auxiliary_weight': 0.4,
  'loss.balance': 0.0,
  'data.augment.ops': (
    *('random_fit', 'random_crop', 'random_flip', 'photometric', 'pad'),
  ),
  'data.augment.shrink': 'bilinear',
  'data.augment.nearest': 'corner',
  'data.augment.fill': (),
  'data.augment.random_crop.padded': False,
  'data.augment.pad.size': (),
  'data.augment.random_fit.low': 0.5,
  'data.augment.random_fit.high': 2.0,
  'data.augment.random_crop.size': (512, 512),
  'data.augment.random_crop.max_class_share': 0.75,
  'data.augment.random_flip.probability': 0.5,
  'data.augment.photometric.brightness': 32.0,
  'data.augment.photometric.contrast': (0.5, 1.5),
  'data.augment.photometric.saturation': (0.5, 1.5),
  'data.augment.photometric.hue': 18.0,
  'data.mean': (123.675, 116.28, 103.53),
  'data.std': (58.395, 57.12, 57.375),
  'eval.mode': 'whole',
  'eval.scales': (1.0,),
  'eval.flip': False,
  'eval.pad_multiple': 1,
  'eval.pad_size': (),
  'model.dtype': 'float32',
  'seed': 0,
}


def mmseg(frame, test_frame=None, **others):
  long, short = frame
  return MMSEG | {
    'data.augment.random_fit.long': long,
    'data.augment.random_fit.short': short,
    'eval.fit': test_frame or frame,
    **{key.replace('__', '.'): value for key, value in others.items()},
  }


CITYSCAPES = mmseg(
  (2048, 1024),
  batch_size=8,
  total_steps=40_000,
  data__augment__random_crop__size=(512, 1024),
)
CROP769 = mmseg(
  (2049, 1025),
  batch_size=8,
  total_steps=80_000,
  data__augment__random_crop__size=(769, 769),
  eval__mode='slide',
  eval__window=(769, 769),
  eval__stride=(513, 513),
  model__head__align_corners=True,
  model__auxiliary__align_corners=True,
)
PADDLE = {
  'optimizer.name': 'sgd',
  'optimizer.learning_rate': 0.005,
  'optimizer.sgd.momentum': 0.9,
  'optimizer.weight_decay': 5e-4,
  'optimizer.decay_mask': '.*',
  'schedule.name': 'poly',
  'schedule.poly.power': 0.9,
  'schedule.poly.end': 0.0,
  'schedule.warmup': 'linear',
  'schedule.warmup_steps': 1000,
  'schedule.warmup_start': 0.002,
  'schedule.warmup_first': True,
  'batch_size': 16,
  'total_steps': 80_000,
  'loss.terms': ('ohem',),
  'loss.auxiliary_terms': (),
  'loss.ohem.threshold': 0.7,
  'loss.ohem.min_kept': 32_500,
  'loss.normalizer': 'valid',
  'loss.auxiliary_weight': 1.0,
  'data.augment.ops': (
    *('random_scale', 'random_crop', 'random_flip', 'distort'),
  ),
  'data.augment.random_scale.low': 0.5,
  'data.augment.random_scale.high': 2.0,
  'data.augment.random_scale.step': 0.25,
  'data.augment.shrink': 'bilinear',
  'data.augment.nearest': 'corner',
  'data.augment.fill': (),
  'data.augment.random_crop.size': (512, 1024),
  'data.augment.random_crop.max_class_share': 1.0,
  'data.augment.random_flip.probability': 0.5,
  'data.augment.distort.brightness': 0.5,
  'data.augment.distort.contrast': 0.5,
  'data.augment.distort.saturation': 0.5,
  'data.augment.distort.hue': 18.0,
  'data.augment.distort.probability': 0.5,
  'data.mean': (127.5, 127.5, 127.5),
  'data.std': (127.5, 127.5, 127.5),
  'eval.mode': 'whole',
  'eval.scales': (1.0,),
  'eval.flip': False,
  'eval.fit': (),
  'eval.pad_multiple': 32,  # of 1024x2048 and its views: none is padded
  'eval.pad_size': (),
}
TI = {
  'optimizer.weight_decay': 1e-4,
  'optimizer.decay_mask': '.*',
  'schedule.warmup_steps': 0,
  'schedule.warmup_epochs': 5.0,
  'total_steps': 0,
  'loss.terms': ('cross_entropy',),
  'loss.normalizer': 'all',
  'loss.balance': 1.0,
  'loss.balance_rule': 'log',
  'loss.weighted_steps': 0.2,
  'optimizer.encoder_multiplier': 1.0,
  'data.augment.ops': (
    *('random_rotate', 'stretch', 'random_stretch', 'random_crop'),
    'random_flip',
  ),
  'data.augment.shrink': 'bilinear',
  'data.augment.nearest': 'corner',
  'data.augment.random_rotate.degrees': 5.0,
  'data.augment.random_rotate.probability': 1.0,
  'data.augment.random_stretch.low': 1.0,
  'data.augment.random_stretch.high': 2.0,
  'data.augment.random_stretch.probability': 0.5,
  'data.augment.random_flip.probability': 0.5,
  'data.mean': (128.0, 128.0, 128.0),
  'data.std': (64.0, 64.0, 64.0),
  'eval.mode': 'static',
}
TI_ADAM = TI | {
  'optimizer.name': 'adam',
  'optimizer.learning_rate': 4e-4,
  'optimizer.adam.b1': 0.9,
  'optimizer.adam.b2': 0.999,
  'optimizer.adam.epsilon': 1e-8,
  'schedule.name': 'step',
  'schedule.step.milestones': (0.4, 0.8),
  'schedule.step.gamma': 0.25,
}
TI_SGD = TI | {
  'optimizer.name': 'sgd',
  'optimizer.learning_rate': 0.1,
  'optimizer.sgd.momentum': 0.9,
  'schedule.name': 'cosine',
  'schedule.cosine.end': 0.0,
}


def ti(recipe, height, width, batch_size, epochs, **others):
  return recipe | {
    'batch_size': batch_size,
    'epochs': epochs,
    'data.augment.stretch.size': (height, width),
    'data.augment.random_crop.size': (height, width),
    'eval.static_size': (height, width),
    **{key.replace('__', '.'): value for key, value in others.items()},
  }


SLIM = {
  'optimizer.name': 'sgd',
  'optimizer.learning_rate': 0.007,
  'optimizer.sgd.momentum': 0.9,
  'optimizer.weight_decay': 4e-5,
  'optimizer.decay_mask': r'(?!.*/depthwise/).*/kernel$',
  'optimizer.bias_multiplier': 2.0,
  'schedule.name': 'poly',
  'schedule.poly.power': 0.9,
  'schedule.poly.end': 0.0,
  'schedule.warmup_steps': 0,
  'batch_size': 16,
  'total_steps': 30_000,
  'loss.terms': ('cross_entropy',),
  'loss.normalizer': 'valid',
  'model.frozen_norms': False,
  'data.augment.ops': ('random_scale', 'random_crop', 'random_flip'),
  'data.augment.shrink': 'bilinear',
  'data.augment.fill': (),
  'data.augment.random_flip.probability': 0.5,
  'data.augment.random_scale.low': 0.5,
  'data.augment.random_scale.high': 2.0,
  'data.augment.random_scale.step': 0.25,
  'data.augment.random_crop.size': (513, 513),
  'data.mean': (127.5, 127.5, 127.5),
  'data.std': (127.5, 127.5, 127.5),
  'data.name': 'voc',
  'data.train_split': 'trainaug',
  'eval.mode': 'whole',
  'eval.scales': (1.0,),
  'eval.flip': False,
  'eval.fit': (),
  'eval.pad_multiple': 32,
  'eval.pad_offset': 1,
  'eval.pad_size': (513, 513),
}
ST = {
  'optimizer.name': 'adam',
  'optimizer.learning_rate': 1e-3,
  'optimizer.weight_decay': 0.0,
  'schedule.name': 'plateau',
  'schedule.plateau.metric': 'loss',
  'schedule.plateau.factor': 0.5,
  'schedule.plateau.patience': 20,
  'schedule.plateau.end': 1e-6,
  'early_stopping.metric': 'loss',
  'early_stopping.patience': 80,
  'eval.loss': True,
  'eval.resize_labels': True,
  'batch_size': 32,
  'epochs': 400.0,
  'eval.every_epochs': 1.0,
  'eval.mode': 'static',
  'data.mean': (127.5, 127.5, 127.5),
  'data.std': (127.5, 127.5, 127.5),
  'optimizer.adam.epsilon': 1e-7,
  'data.augment.shrink': 'bilinear',
  'data.augment.random_flip.probability': 0.5,
  'data.augment.random_flip_vertical.probability': 0.5,
  'data.augment.random_window.share': (0.6, 0.9),
  'data.augment.random_window.center': (0.25, 0.75),
  'data.augment.random_window.probability': 0.9,
  'data.augment.brightness_contrast.brightness': 0.3,
  'data.augment.brightness_contrast.contrast': 0.4,
}
ST_SMALL = (
  *('stretch', 'random_window', 'brightness_contrast', 'random_flip'),
  'random_flip_vertical',
)
ST_LARGE = tuple(op for op in ST_SMALL if op != 'random_window')
TV = {
  'optimizer.name': 'sgd',
  'optimizer.learning_rate': 0.02,
  'optimizer.sgd.momentum': 0.9,
  'optimizer.weight_decay': 1e-4,
  'optimizer.decay_mask': '.*',
  'optimizer.auxiliary_multiplier': 10.0,
  'schedule.name': 'poly',
  'schedule.poly.power': 0.9,
  'schedule.poly.end': 0.0,
  'schedule.warmup_steps': 0,
  'batch_size': 32,
  'epochs': 30.0,
  'loss.auxiliary_weight': 0.5,
  'loss.normalizer': 'valid',
  'data.augment.ops': ('random_short_side', 'random_crop', 'random_flip'),
  'data.augment.random_short_side.low': 260,
  'data.augment.random_short_side.high': 1040,
  'data.augment.random_crop.size': (480, 480),
  'data.augment.random_flip.probability': 0.5,
  'data.augment.fill': (0.0, 0.0, 0.0),
  'data.mean': (123.675, 116.28, 103.53),
  'data.std': (58.395, 57.12, 57.375),
  'eval.mode': 'whole',
  'eval.fit': (65536, 520),
  'eval.resize_labels': True,
  'eval.pad_multiple': 1,
  'eval.pad_size': (),
}
TV_MOBILE = TV | {
  'optimizer.learning_rate': 0.01,
  'optimizer.weight_decay': 1e-6,
}

TV_CITYSCAPES = TV | {
  'data.name': 'cityscapes',
  'data.augment.random_crop.size': (520, 1040),
  'eval.static_size': (520, 1040),
}
ERFNET = {
  'optimizer.name': 'adam',
  'optimizer.learning_rate': 5e-4,
  'optimizer.adam.b1': 0.9,
  'optimizer.adam.b2': 0.999,
  'optimizer.adam.epsilon': 1e-8,
  'optimizer.weight_decay': 1e-4,
  'optimizer.decay_mask': '.*',
  'schedule.name': 'poly',
  'schedule.poly.power': 0.9,
  'schedule.poly.end': 0.0,
  'schedule.warmup_steps': 0,
  'batch_size': 6,
  'total_steps': 0,
  'epochs': 150.0,
  'loss.terms': ('cross_entropy',),
  'loss.normalizer': 'weight',
  'loss.balance': 1.0,
  'loss.balance_rule': 'log',
  'loss.weighted_steps': 1.0,
  'data.name': 'cityscapes',
  'data.augment.ops': ('stretch', 'random_flip'),
  'data.augment.stretch.size': (512, 1024),
  'data.augment.shrink': 'bilinear',
  'data.augment.random_flip.probability': 0.5,
  'eval.mode': 'static',
  'eval.static_size': (512, 1024),
}
SWIFTNET = {
  'optimizer.name': 'adam',
  'optimizer.learning_rate': 4e-4,
  'optimizer.encoder_multiplier': 0.25,
  'optimizer.adam.b1': 0.9,
  'optimizer.adam.b2': 0.999,
  'optimizer.adam.epsilon': 1e-8,
  'optimizer.weight_decay': 1e-4,
  'optimizer.decay_mask': '.*',
  'schedule.name': 'cosine',
  'schedule.cosine.end': 1e-6,
  'schedule.warmup_steps': 0,
  'batch_size': 12,
  'total_steps': 0,
  'epochs': 250.0,
  'loss.terms': ('cross_entropy',),
  'loss.normalizer': 'valid',
  'data.name': 'cityscapes',
  'data.augment.ops': ('random_scale', 'random_crop', 'random_flip'),
  'data.augment.random_scale.low': 0.5,
  'data.augment.random_scale.high': 2.0,
  'data.augment.random_scale.step': 0.0,
  'data.augment.random_crop.size': (768, 768),
  'data.augment.random_flip.probability': 0.5,
  'eval.mode': 'whole',
  'eval.static_size': (1024, 2048),
}
SLIM_CITYSCAPES = SLIM | {
  'data.name': 'cityscapes',
  'data.train_split': 'train',
  'data.augment.random_crop.size': (769, 769),
  'total_steps': 90_000,
  'eval.pad_size': (1025, 2049),
  'eval.static_size': (1025, 2049),
}


def many(recipe, *scales):
  """Returns a recipe with views at scales of the image, each mirrored too."""
  views = {'eval.scales': scales, 'eval.flip': True, 'eval.fit': ()}
  return recipe | views


SIX = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)

RECIPES = {
  ('cityscapes_resnet', ''): CITYSCAPES,
  ('cityscapes_resnet', 'r101,bf16,80k'): CITYSCAPES
  | {'total_steps': 80_000, 'model.dtype': 'bfloat16'},
  ('cityscapes_resnet', 'r101,mg124'): CITYSCAPES
  | {
    'loss.terms': ('ohem',),
    'loss.auxiliary_terms': ('cross_entropy',),
    'loss.ohem.threshold': 0.0,
    'loss.ohem.min_kept': 100_000,
  },
  ('cityscapes_resnet', 'r50,crop769,80k'): CROP769,
  ('cityscapes_resnet', 'r101,crop769,80k'): CROP769 | {'seed': 1111},
  ('cityscapes_resnet', 'r101,crop769'): CROP769 | {'total_steps': 40_000},
  ('ade20k_resnet', 'r101,160k'): mmseg((2048, 512), total_steps=160_000),
  ('voc_resnet', ''): mmseg(
    (2048, 512),
    total_steps=20_000,
    data__train_split='trainaug',
    data__augment__fill=(0.0, 0.0, 0.0),
  ),
  ('pascal_context_resnet', 'c59,80k'): mmseg(
    (520, 520),
    total_steps=80_000,
    data__augment__random_crop__size=(480, 480),
    optimizer__learning_rate=0.004,
    optimizer__weight_decay=1e-4,
    eval__mode='slide',
    eval__window=(480, 480),
    eval__stride=(320, 320),
  ),
  ('loveda_resnet', ''): mmseg((2048, 512), (1024, 1024), total_steps=80_000),
  ('potsdam_resnet', 'r50'): mmseg((512, 512), total_steps=80_000),
  ('vaihingen_resnet', 'r101'): mmseg((512, 512), total_steps=80_000),
  ('isaid_resnet', ''): mmseg(
    (896, 896),
    total_steps=80_000,
    data__augment__random_crop__size=(896, 896),
  ),
  ('cityscapes_resnet', 'r18,flip'): CITYSCAPES | {'eval.flip': True},
  ('cityscapes_resnet', 'r18,ms'): many(CITYSCAPES, *SIX),
  ('cityscapes_resnet', 'r50,crop769,80k,ms'): many(CROP769, *SIX),
  ('ade20k_resnet', 'r50,80k,ms'): many(
    mmseg((2048, 512), total_steps=80_000), *SIX
  ),
  ('voc_resnet', 'flip'): mmseg(
    (2048, 512), eval__flip=True, data__augment__fill=(0.0, 0.0, 0.0)
  ),
  ('loveda_resnet', 'ms'): many(mmseg((2048, 512)), *SIX),
  ('pascal_context_resnet', 'ms'): {
    'eval.scales': SIX,
    'eval.flip': True,
    'eval.fit': (),
  },
  ('potsdam_resnet', 'ms'): many(mmseg((512, 512)), *SIX),
  ('vaihingen_resnet', 'ms'): many(mmseg((512, 512)), *SIX),
  ('isaid_resnet', 'ms'): {
    'eval.scales': SIX,
    'eval.flip': True,
    'eval.fit': (),
  },
  ('cityscapes_mobileseg', 'ghostnet'): PADDLE,
  ('cityscapes_mobileseg', 'mnv2,flip'): PADDLE | {'eval.flip': True},
  ('cityscapes_mobileseg', 'mnv2,ms'): many(PADDLE, 0.75, 1.0, 1.25),
  ('cityscapes_lite', 'fpn'): ti(TI_ADAM, 384, 768, 12, 250.0),
  ('cityscapes_lite', 'rx1600,size512'): ti(TI_SGD, 512, 1024, 12, 250.0),
  ('cityscapes_lite', 'unet,qat'): ti(
    TI_ADAM,
    *(384, 768, 12, 10.0),
    optimizer__learning_rate=1e-5,
    schedule__warmup_epochs=0.0,
    quantization__name='int8',
    quantization__power_of_two=True,
  ),
  ('ade20k32_lite', 'wide'): ti(TI_ADAM, 512, 512, 16, 120.0),
  ('ade20k32_lite', 'rx400,size384'): ti(TI_SGD, 384, 384, 16, 60.0),
  ('cocoseg21_lite', 'unet'): ti(
    TI_SGD,
    *(512, 512, 32, 60.0),
    data__name='cocoseg21_ti',
    optimizer__learning_rate=0.05,
  ),
  ('cocoseg21_lite', 'rx800'): ti(
    TI_SGD, *(512, 512, 32, 60.0), data__name='cocoseg21_ti'
  ),
  ('voc_mnv2', 'mobile'): SLIM,
  ('voc_mnv2', 'dm05,qat'): SLIM
  | {
    'total_steps': 3000,
    'optimizer.learning_rate': 3e-5,
    'quantization.name': 'int8',
  },
  ('voc_xception', ''): SLIM,
  ('voc_mnv2', 'flip'): SLIM | {'eval.flip': True},
  ('voc_mnv2', 'mobile,os8,ms'): many(SLIM, *SIX),
  ('voc_xception', 'ms'): many(SLIM, *SIX),
  ('cityscapes_slim', 'mnv2'): SLIM_CITYSCAPES,
  ('cityscapes_slim', 'mnv3'): SLIM_CITYSCAPES,
  ('cityscapes_slim', 'xception65'): SLIM_CITYSCAPES,
  ('cityscapes_slim', 'xception65,ms'): many(SLIM_CITYSCAPES, *SIX),
  ('cityscapes_erfnet', ''): ERFNET,
  ('cityscapes_swiftnet', ''): SWIFTNET,
  ('cityscapes_torchvision', 'fcn_r50'): TV_CITYSCAPES,
  ('cityscapes_torchvision', 'deeplabv3_r50'): TV_CITYSCAPES,
  ('person_mnv2', ''): ST
  | {
    'loss.terms': ('sigmoid_cross_entropy',),
    'data.name': 'coco_voc_person',
    'data.augment.ops': ST_SMALL,
    'data.augment.stretch.size': (256, 256),
    'eval.static_size': (256, 256),
  },
  ('person_mnv2', 'size416'): ST
  | {
    'loss.terms': ('sigmoid_cross_entropy',),
    'data.augment.ops': ST_LARGE,
    'data.augment.stretch.size': (416, 416),
  },
  ('voc_mnv2_cut', ''): ST
  | {
    'loss.terms': ('cross_entropy',),
    'data.name': 'coco_voc21',
    'data.augment.ops': ST_LARGE,
    'data.augment.stretch.size': (512, 512),
  },
  ('cocoseg21_torchvision', 'deeplabv3_r50'): TV,
  ('cocoseg21_torchvision', 'deeplabv3_mnv3'): TV_MOBILE,
  ('cocoseg21_torchvision', 'lraspp_mnv3'): TV_MOBILE
  | {'optimizer.auxiliary_multiplier': 1.0, 'loss.auxiliary_weight': 0.4},
}


def get(config, key):
  for name in key.split('.'):
    config = config[name]
  return config


@pytest.mark.parametrize(('page', 'expected'), RECIPES.items())
def test_values_are_the_published_ones(page, expected):
  config = configs_test.get(*page)
  assert {key: get(config, key) for key in expected} == expected


def network(stride, rates, epsilon, aligned, **model):
  """Fields of config.model that no parameter of a file tells."""
  return {
    'output_stride': stride,
    'head.rates': rates,
    'head.bn_epsilon': 1e-5,
    'head.align_corners': aligned,
    'encoder.bn_epsilon': epsilon,
    **{key.replace('__', '.'): value for key, value in model.items()},
  }


# Dropout2d(0.1) before mmsegmentation's classifier.
CHANNEL_DROPOUT = {'head__dropout': 0.1, 'head__dropout_channels': True}
PIXEL_DROPOUT = {'head__dropout_channels': False}
NETWORKS = {
  ('cityscapes_resnet', 'r50,80k'): network(
    *(8, (12, 24, 36), 1e-5, False), **CHANNEL_DROPOUT
  ),
  ('cityscapes_resnet', 'r18,80k'): network(
    *(8, (12, 24, 36), 1e-5, False), **CHANNEL_DROPOUT
  ),
  ('cityscapes_resnet', 'r101,mg124,80k'): network(
    *(16, (6, 12, 18), 1e-5, False), **CHANNEL_DROPOUT
  ),
  ('cityscapes_resnet', 'r50,crop769,80k'): network(
    *(8, (12, 24, 36), 1e-5, True), **CHANNEL_DROPOUT
  ),
  ('cocoseg21_torchvision', 'deeplabv3_r50'): network(
    *(8, (12, 24, 36), 1e-5, False), head__aspp_dropout=0.5, **PIXEL_DROPOUT
  ),
  ('cocoseg21_torchvision', 'deeplabv3_mnv3'): network(
    *(16, (12, 24, 36), 1e-3, False), head__aspp_dropout=0.5, **PIXEL_DROPOUT
  ),
  ('voc_mnv2', ''): network(
    *(16, (6, 12, 18), 1e-3, True), head__aspp_dropout=0.1, **PIXEL_DROPOUT
  ),
  ('voc_mnv2', 'os8'): network(8, (12, 24, 36), 1e-3, True),
  ('voc_mnv2', 'mobile'): network(16, (), 1e-3, True),
  ('voc_xception', ''): network(16, (6, 12, 18), 1e-3, True),
  ('voc_xception', 'os8'): network(8, (12, 24, 36), 1e-3, True),
  ('person_mnv2', ''): network(16, (3, 6, 9), 1e-3, False, head__dropout=0.4)
  | {'head.bn_epsilon': 1e-3},
  ('person_mnv2', 'size416'): network(16, (5, 10, 15), 1e-3, False)
  | {'head.bn_epsilon': 1e-3},
}


@pytest.mark.parametrize(('page', 'expected'), NETWORKS.items())
def test_networks_are_the_published_ones(page, expected):
  model = configs_test.get(*page).model
  assert {key: get(model, key) for key in expected} == expected


# (epsilon, decay) of the BatchNorms of encoder and head. The decay is 1 less
# PyTorch's momentum.
TORCH_NORMS = (1e-5, 0.9), (1e-5, 0.9)
ERFNET_NORMS = (1e-3, 0.9), (1e-3, 0.9)
SLIM_NORMS = (1e-3, 0.997), (1e-5, 0.9997)
NORMS = {
  'st_*': ((1e-3, 0.999), (1e-3, 0.99)),
  'ti_*': TORCH_NORMS,
  'tf_*_mnv2_*': SLIM_NORMS,
  'tf_*_mnv3_*': SLIM_NORMS,
  'tf_*_xception65_*': ((1e-3, 0.9997), (1e-5, 0.9997)),
  'tv_*_resnet*': TORCH_NORMS,
  'tv_*_mnv3_*': ((1e-3, 0.99), (1e-5, 0.9)),
  'ref_*_erfnet_*': ERFNET_NORMS,
  'ref_*_swiftnet_*': TORCH_NORMS,
  'mmseg_*': TORCH_NORMS,
  'mobileseg_*': TORCH_NORMS,
  'datature_resnet*': TORCH_NORMS,
  'datature_mobilenet_v3_*': ((1e-3, 0.99), (1e-5, 0.9)),
}


@pytest.mark.parametrize('pattern', NORMS)
def test_batch_norms_have_the_constants_of_the_source(pattern):
  for row in zoo_rows.read_rows(pattern):
    model = zoo_rows.load_config(row).model
    found = tuple(
      (part.bn_epsilon, part.bn_decay) for part in (model.encoder, model.head)
    )
    assert found == NORMS[pattern], row.id


@pytest.mark.parametrize(
  ('pattern', 'unbiased', 'stddev'),
  [
    ('mmseg_*', True, 0.01),
    ('tf_*', True, 0.01),
    ('ti_*', True, 0.0),
    ('tv_*', True, 0.0),
    ('ref_*', True, 0.0),
    ('mobileseg_*', True, 0.0),
    ('st_*', True, 0.0),
    ('datature_*', False, 0.0),
  ],
)
def test_statistics_and_classifiers_begin_as_in_the_source(
  pattern, unbiased, stddev
):
  for row in zoo_rows.read_rows(pattern):
    model = zoo_rows.load_config(row).model
    found = (model.unbiased_variance, model.classifier_stddev)
    assert found == (unbiased, stddev), row.id


def test_every_row_has_constants():
  named = [row.id for pattern in NORMS for row in zoo_rows.read_rows(pattern)]
  assert sorted(named) == sorted(row.id for row in zoo_rows.read_rows())


# (H, W) at which the network computes images of a size: the views of TF
# DeepLab are those of its canvas, and other sources pad nothing.
COMPUTED_SIZES = [
  ('voc_mnv2', '', (375, 500), [(513, 513)]),
  ('voc_mnv2', 'mobile', (500, 334), [(513, 513)]),
  ('voc_xception', 'os8', (500, 375), [(513, 513)]),
  (
    *('voc_xception', 'ms', (333, 500)),
    [(257, 257), (385, 385), (513, 513), (641, 641), (769, 769), (897, 897)],
  ),
  ('cityscapes_slim', 'mnv3', (1024, 2048), [(1025, 2049)]),
  (
    *('cityscapes_slim', 'ms', (1024, 2048)),
    [
      *((513, 1025), (769, 1537), (1025, 2049)),
      *((1281, 2561), (1537, 3073), (1793, 3585)),
    ],
  ),
  (
    *('cityscapes_mobileseg', 'ms', (1024, 2048)),
    [(768, 1536), (1024, 2048), (1280, 2560)],
  ),
  ('cocoseg21_torchvision', '', (427, 640), [(520, 779)]),
  ('cityscapes_torchvision', '', (1024, 2048), [(520, 1040)]),
  ('voc_resnet', '', (375, 500), [(512, 683)]),
  ('pascal_context_resnet', '', (375, 500), [(390, 480)]),
  ('cityscapes_resnet', 'r50,crop769,80k', (1024, 2048), [(769, 769)]),
  ('cityscapes_lite', '', (1024, 2048), [(384, 768)]),
  ('person_mnv2', '', (427, 640), [(256, 256)]),
]


@pytest.mark.parametrize(
  ('page', 'variant', 'size', 'computed'), COMPUTED_SIZES
)
def test_images_are_computed_at_the_sizes_of_the_source(
  page, variant, size, computed
):
  fake = views_test.FakePredictor(lambda images: images[..., :1])
  image = np.zeros((*size, 3), np.uint8)
  protocol = configs_test.get(page, variant).eval
  if protocol.resize_labels:
    image = np.zeros((*views.view_size(size, protocol.fit, 1.0), 3), np.uint8)
    protocol = protocol.copy_and_resolve_references().unlock()
    protocol.fit = ()
  views.segment_images(fake, [image], protocol)
  assert sorted({shape[1:3] for shape in fake.shapes}) == computed

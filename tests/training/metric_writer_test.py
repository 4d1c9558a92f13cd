import json
import math

import pytest

from deeplab.training import metric_writer


def _lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_are_strict_json_with_null_for_nan(tmp_path):
  book = metric_writer.MetricWriter(str(tmp_path), 0)
  book.write_scalars(3, 'val', {'miou': 0.5, 'iou/absent': math.nan})
  book.close()
  assert _lines(tmp_path / 'metrics.jsonl') == [
    {'step': 3, 'split': 'val', 'miou': 0.5, 'iou/absent': None}
  ]
  assert list(tmp_path.glob('events.*'))


def test_a_resumed_run_drops_later_and_half_lines(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text(
    '{"step": 1, "split": "train", "loss": 2.0}\n'
    '{"step": 2, "split": "train", "loss": 1.0}\n'
    '{"step": 3, "spl'
  )
  book = metric_writer.MetricWriter(str(tmp_path), 1)
  book.write_scalars(2, 'train', {'loss': 1.5})
  book.close()
  assert [line['loss'] for line in _lines(path)] == [2.0, 1.5]


def test_a_broken_line_is_named(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 1, "split": "val"}\nnot json\n')
  with pytest.raises(ValueError, match=r'metrics.jsonl:2 is not JSON'):
    metric_writer.read_metrics(str(path))


@pytest.mark.parametrize(
  'line',
  [
    '[]',
    '1',
    '{"step": 2, "loss": 1.0}',
    '{"step": 2.5, "split": "train"}',
    '{"step": true, "split": "train"}',
    '{"step": 1e400, "split": "train"}',
    '{"step": 2, "split": 7}',
    '{"step": 2, "split": "train", "loss": "1"}',
    '{"step": 2, "split": "train", "loss": NaN}',
    f'{{"step": 2, "split": "train", "loss": 1{"0" * 400}}}',
  ],
)
@pytest.mark.parametrize('strict', [True, False])
def test_a_line_of_another_form_is_named(tmp_path, line, strict):
  path = tmp_path / 'metrics.jsonl'
  path.write_text(f'{{"step": 1, "split": "val", "miou": null}}\n{line}\n')
  with pytest.raises(ValueError, match=r'jsonl:2 is not a line of metrics'):
    metric_writer.read_metrics(str(path), strict)


@pytest.mark.parametrize('line', [b'{"step": 2, "spl\xff', b'[' * 100_000])
def test_damaged_lines_are_dropped_or_named(tmp_path, line):
  path = tmp_path / 'metrics.jsonl'
  first = {'step': 1, 'split': 'val', 'miou': 0.5}
  path.write_bytes(json.dumps(first).encode() + b'\n' + line + b'\n')
  assert metric_writer.read_metrics(str(path), strict=False) == [first]
  with pytest.raises(ValueError, match='jsonl:2 is not JSON'):
    metric_writer.read_metrics(str(path))


def test_progress_gives_speed_without_pauses(monkeypatch):
  now = [100.0]
  monkeypatch.setattr(metric_writer.time, 'monotonic', lambda: now[0])
  progress = metric_writer.Progress(0, 50, batch_size=8)
  now[0] = 103.0
  progress.pause()
  now[0] = 203.0
  progress.resume()

  def slow():
    now[0] += 0.5
    yield 'batch'

  assert progress.next_batch(slow()) == 'batch'
  now[0] = 205.0  # five seconds of work for ten steps
  speed = progress.report(10, {'loss': 1.0, 'learning_rate': 0.1})
  assert speed == {
    'steps_per_second': 2.0,
    'images_per_second': 16.0,
    'input_share': 0.1,
  }
  now[0] = 206.0
  again = progress.report(12, {'loss': 1.0, 'learning_rate': 0.1})
  assert again['input_share'] == 0.0


def test_the_time_left_may_be_days(monkeypatch, caplog):
  now = [0.0]
  monkeypatch.setattr(metric_writer.time, 'monotonic', lambda: now[0])
  progress = metric_writer.Progress(0, 30_010, batch_size=8)
  now[0] = 40.0
  with caplog.at_level('INFO', logger='absl'):
    progress.report(10, {'loss': 1.0, 'learning_rate': 0.1})
  assert 'ETA 33:20:00' in caplog.text


def test_the_cost_of_a_step_is_formatted():
  spent = {'gflops': 2.346, 'arguments': 10.4, 'reused': 8.0, 'work': 99.6}
  assert metric_writer.format_step_cost(spent) == (
    '2.35 GFLOPs, 10 MiB of state and batch (8 reused), 100 MiB of work memory'
  )
  assert metric_writer.format_step_cost({}) == 'the back end reports no cost'

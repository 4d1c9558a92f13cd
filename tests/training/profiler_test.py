import jax.numpy as jnp
import pytest

from deeplab.training import profiler


def test_steps_are_a_range():
  assert profiler.parse_steps('') == range(0)
  assert list(profiler.parse_steps('3:5')) == [3, 4]
  for wrong in ('5', '5:5', '0:3', 'a:b', '3-5'):
    with pytest.raises(ValueError, match=f"profile_steps='{wrong}' is not"):
      profiler.parse_steps(wrong)


def test_traces_are_readable_by_tensorboard(tmp_path):
  recorder = profiler.TraceRecorder(range(2, 4), str(tmp_path))
  for step in range(1, 5):
    recorder.before_step(step)
    result = jnp.ones(3) * step
    recorder.after_step(step, result)
    found = list(tmp_path.glob('plugins/profile/*/*.xplane.pb'))
    assert len(found) == (step >= 3)
  assert found[0].stat().st_size > 1000
  recorder.close()


def test_a_run_that_stops_early_keeps_its_trace(tmp_path):
  recorder = profiler.TraceRecorder(range(1, 100), str(tmp_path))
  recorder.before_step(50)  # it went on from there
  recorder.close()
  assert len(list(tmp_path.glob('plugins/profile/*/*.xplane.pb'))) == 1

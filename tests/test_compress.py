# SPDX-License-Identifier: Apache-2.0
"""The whole pipeline's options reach its stages, whose times add up."""

from dataclasses import fields, replace

import pytest

from bort_jax.arch import BORT
from bort_jax.stages.compress import config as options
from bort_jax.stages.compress.run import seconds, time_stage

CONFIG = options.Config(seq_len=24, batch_size=3, seed=7)


def test_stage_configs_have_what_is_common(tmp_path):
    made = [
        options.extract_config(CONFIG, tmp_path),
        options.teacher_config(CONFIG, tmp_path, BORT),
        options.student_config(CONFIG, tmp_path, BORT),
        options.socrates_config(CONFIG, tmp_path),
        options.agora_config(CONFIG, tmp_path),
    ]
    assert {one.seq_len for one in made} == {24}
    assert len({one.out for one in made}) == len(made)
    assert made[1].arch == made[2].arch == str(BORT)
    assert made[2].teacher == f"{made[1].out}/model" == made[4].masked_lm
    assert made[4].socrates == f"{made[3].out}/model"


@pytest.mark.parametrize("stage", ["extract", "agora"])
def test_stage_configs_have_every_option_of_their_stage(stage, tmp_path):
    given = getattr(CONFIG, stage)
    changed = replace(given, steps=17)
    made = getattr(options, f"{stage}_config")(replace(CONFIG, **{stage: changed}), tmp_path)
    assert made.steps == 17
    for field in fields(changed):
        assert getattr(made, field.name) == getattr(changed, field.name)


def test_time_stage_adds_to_the_seconds_of_an_interrupted_run(tmp_path):
    with pytest.raises(KeyboardInterrupt), time_stage("one", tmp_path):
        raise KeyboardInterrupt
    first = seconds(tmp_path)["one"]
    with time_stage("one", tmp_path):
        pass
    assert seconds(tmp_path)["one"] > first > 0

# SPDX-License-Identifier: Apache-2.0
"""What is wrong with the options of an extraction is said before any text is read."""

from dataclasses import fields

import pytest

from bort_jax.stages.extract.config import READ_FROM_RUN, READ_LAYERWISE, Config, check

NAMES = {field.name for field in fields(Config)}
DEFAULTS = {field.name: field.default for field in fields(Config)}
# Another value than the default of options that are no numbers, switches or lists.
OTHERS = {"search": "bounded", "errors": "elastic", "inference": "operations"}
OTHERS |= {"measure": "excess", "column": "body", "clip_weights": 1.0}
VALID = {"head_size": 32, "learning_rates": (1e-4,)}


def another(name):
    """A value that the option does not have by default."""
    default = DEFAULTS[name]
    if name in OTHERS:
        return OTHERS[name]
    if isinstance(default, bool):
        return not default
    if isinstance(default, tuple):
        return default[:-1] or default
    if isinstance(default, (int, float)):
        return default / 2 if isinstance(default, float) else default + 1
    return 1e9 if name.startswith(("max_", "about_")) else "x"


def complaint(config):
    """Whatever `check` says against the options."""
    try:
        check(config)
    except ValueError as error:
        return str(error)
    return ""


def option(name):
    return f"--{name.replace('_', '-')}"


@pytest.mark.parametrize("name", sorted(NAMES - READ_LAYERWISE - {"from_run", "parent"}))
def test_check_refuses_what_a_layerwise_search_would_ignore(name):
    config = Config("text", "out", search="layerwise", **{name: another(name)})
    with pytest.raises(ValueError, match=f"a layerwise search does not read {option(name)}:"):
        check(config)


@pytest.mark.parametrize("name", sorted(NAMES - READ_FROM_RUN))
def test_check_refuses_what_a_finished_run_would_ignore(name):
    value = another(name) if name != "learning_rates" else (1e-4,)
    with pytest.raises(ValueError, match=f"does not read .*{option(name)}"):
        check(Config(from_run="run", **{name: value}))


@pytest.mark.parametrize("name", sorted(READ_LAYERWISE - {"data", "out", "search"}))
def test_check_lets_a_layerwise_search_have_what_it_reads(name):
    value = another(name) if name not in VALID else VALID[name]
    config = Config("text", "out", search="layerwise", **{name: value})
    assert getattr(config, name) != DEFAULTS[name]
    assert complaint(config) == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"search": "layerwise", "learning_rates": (1e-3, 1e-2)}, "--learning-rates one rate"),
        ({"search": "layerwise", "measure": "eror"}, "measure must be one of error, perplex"),
        ({"search": "layerwise", "head_size": 2048}, "no number of heads fits"),
        ({"measure": "eror"}, "measure must be one of error, perplexity"),
        ({"measure": "distillation"}, "a teacher belongs to the measure distillation"),
        ({"teacher": "model"}, "a teacher belongs to the measure distillation"),
        ({"head_size": 32}, "search interval does not read --head-size"),
        ({"errors": "guessed"}, "errors must be one of trained, elastic, fitted"),
        ({"inference": "joules"}, "inference must be one of macs"),
        ({"learning_rates": ()}, "learning_rates is empty"),
    ],
)
def test_check_says_what_is_wrong(changes, message):
    with pytest.raises(ValueError, match=message):
        check(Config("text", "out", **changes))

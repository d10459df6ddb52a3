"""Inputs of model types that no rule by name gives: shapes as the docstrings of their `forward` in transformers state them.

A type's inputs replace what the general rules make. They are one image, one clip, one second of sound or one sentence a
sample, unless the entry says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable

from .scenes import SCENES
from .sounds import SOUNDS
from .specimen import Inputs, Specimen


def make(x: Specimen) -> Inputs | None:
    """Return the inputs of the model type that `x.config` names, or None where the general rules serve."""
    found = BY_TYPE.get(x.config.model_type)
    return found(x) if found else None


def _words(x: Specimen) -> Inputs:
    return {"input_ids": x.ids(x.text_length)}


def _in_language(x: Specimen) -> Inputs:
    return {"input_ids": x.ids(x.length), "lang_ids": x.full(0, x.batch)}


def _draft(x: Specimen) -> Inputs:
    """A block of tokens to denoise after the target network's states of the text before it."""
    c = x.config
    return {
        "noise_embeds": x.floats(x.batch, c.block_size, c.hidden_size),
        "context_hidden_states": x.floats(x.batch, x.length, c.hidden_size * len(c.target_layer_ids)),
    }


def _array(x: Specimen) -> Inputs:
    """An array of `d_model` channels with as many positions as the configuration says."""
    return {"inputs": x.floats(x.batch, x.config.max_position_embeddings, x.config.d_model)}


def _series(x: Specimen) -> Inputs:
    length = x.config.context_length
    return {
        "past_values": x.floats(x.batch, length),
        "past_values_padding": x.full(0, x.batch, length),
        "freq": x.full(0, x.batch, 1),
    }


def _forecast(x: Specimen) -> Inputs:
    """One series long enough for its lags, with its time features, and the steps to forecast (`prediction_length`)."""
    c = x.config
    past, ahead = c.context_length + max(c.lags_sequence), c.prediction_length
    x.used.add("seq_len")  # which `prediction_length` was taken from
    values = () if c.input_size == 1 else (c.input_size,)
    return {
        "past_values": x.floats(x.batch, past, *values),
        "past_time_features": x.floats(x.batch, past, c.num_time_features),
        "past_observed_mask": x.ones(x.batch, past, *values),
        "future_values": x.floats(x.batch, ahead, *values),
        "future_time_features": x.floats(x.batch, ahead, c.num_time_features),
    } | ({"static_categorical_features": x.full(0, x.batch, n)} if (n := c.num_static_categorical_features) else {})


def _episode(x: Specimen) -> Inputs:
    """States, actions and returns of 20 steps (Chen et al. 2021, table 8)."""
    steps = 20
    return {
        "states": x.floats(x.batch, steps, x.config.state_dim),
        "actions": x.floats(x.batch, steps, x.config.act_dim),
        "rewards": x.floats(x.batch, steps, 1),
        "returns_to_go": x.floats(x.batch, steps, 1),
        "timesteps": x.numbers([list(range(steps))] * x.batch),
        "attention_mask": x.ones(x.batch, steps),
    }


BY_TYPE: dict[str, Callable[[Specimen], Inputs]] = {
    **SCENES,
    **SOUNDS,
    "sam3_lite_text_text_model": _words,
    "xmod": _in_language,
    "muse_glimmer_assistant": _draft,
    "perceiver": _array,
    **dict.fromkeys(("timesfm", "timesfm2_5"), _series),
    **dict.fromkeys(("autoformer", "informer", "time_series_transformer"), _forecast),
    "decision_transformer": _episode,
}
"""By a configuration's `model_type`."""

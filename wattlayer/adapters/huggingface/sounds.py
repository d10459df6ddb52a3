"""Sound of model types that no rule by name serves; see `by_type`."""

from __future__ import annotations

from collections.abc import Callable

from .scenes import clip
from .specimen import AUDIO_SAMPLES, Inputs, Specimen

MEL_FRAMES = 400
"""Spectrogram frames 10 ms apart of four seconds of speech."""


def _mono(x: Specimen, multiple: int = 1) -> Inputs:
    """One channel [batch, 1, samples]."""
    return {"input_values": x.floats(x.batch, 1, -(-AUDIO_SAMPLES // multiple) * multiple)}


def _mono_under(name: str) -> Callable[[Specimen], Inputs]:
    return lambda x: {name: _mono(x)["input_values"]}


def _mono_and_mel(x: Specimen) -> Inputs:
    """Samples, and the same second as the frames of a semantic encoder, 20 ms apart."""
    bins = x.config.semantic_model_config.feature_projection_input_dim
    return _mono(x, x.config.hop_length) | {"input_features": x.floats(x.batch, 50, bins)}


def _mono_and_text(x: Specimen) -> Inputs:
    return _mono(x) | {"input_ids": x.ids(x.length)}


def _mono_and_clip(x: Specimen) -> Inputs:
    return _mono(x) | clip(x, "pixel_values_videos")


def _mono_clip_and_text(x: Specimen) -> Inputs:
    return _mono_and_clip(x) | {"input_ids": x.ids(x.length)}


def _latents(dimension: str) -> Callable[[Specimen], Inputs]:
    """One second of a codec's latents [batch, channels, frames], 12.5 frames a second (Mimi, Défossez et al. 2024)."""
    return lambda x: {"latents": x.floats(x.batch, getattr(x.config, dimension), 13)}


def _mel(bins: Callable[[Specimen], int], name: str = "input_features", first: bool = False) -> Callable[[Specimen], Inputs]:
    """Spectrogram frames [batch, frames, bins], or with the bins first."""

    def result(x: Specimen) -> Inputs:
        shape = (bins(x), MEL_FRAMES) if first else (MEL_FRAMES, bins(x))
        mask = {f"{name}_mask": x.full(1, x.batch, MEL_FRAMES, dtype="bool")}
        return {name: x.floats(x.batch, *shape)} | mask

    return result


def _mel_and_text(x: Specimen) -> Inputs:
    audio = getattr(x.config, "audio_config", None) or x.config.decoder_config
    bins = getattr(audio, "num_mel_bins", None) or audio.feature_size
    return {"input_ids": x.ids(x.text_length), "input_features": x.floats(x.batch, bins, MEL_FRAMES)}


def _fused_mel_and_text(x: Specimen) -> Inputs:
    """Ten seconds of frames 10 ms apart [batch, 1, frames, bins] (CLAP, Wu et al. 2023, section 3)."""
    return {"input_ids": x.ids(x.text_length), "input_features": x.floats(x.batch, 1, 1001, x.config.audio_config.num_mel_bins)}


def _streamed(x: Specimen) -> Inputs:
    """Each token stands for `audio_length_per_tok` frames that arrive with it."""
    frames = x.length * x.config.audio_length_per_tok
    return {"input_ids": x.ids(x.length), "input_features": x.floats(x.batch, x.config.audio_config.num_mel_bins, frames)}


def _hidden_speech(x: Specimen) -> Inputs:
    """Hidden states on both sides: the bare model has no networks in front."""
    shape = (x.batch, x.length, x.config.hidden_size)
    return {"input_values": x.floats(*shape), "decoder_input_values": x.floats(*shape)}


def _hidden(name: str = "inputs_embeds") -> Callable[[Specimen], Inputs]:
    return lambda x: {name: x.floats(x.batch, x.length, x.config.hidden_size)}


def _spoken(x: Specimen) -> Inputs:
    """Text, and one token of each codebook for every frame of speech."""
    return {"input_ids": x.ids(x.length), "decoder_input_ids": x.ids(x.length, x.config.decoder_config.num_channels)}


def _tunes(x: Specimen) -> Inputs:
    """A description, and one token of each codebook for every frame of music [batch · codebooks, frames]."""
    return {
        "input_ids": x.ids(x.length),
        "decoder_input_ids": x.full(3, x.batch * x.config.decoder.num_codebooks, x.length),
    }


def _text_and_codes(x: Specimen) -> Inputs:
    return {"input_ids": x.ids(x.length, 1 + x.config.num_codebooks)}


SOUNDS: dict[str, Callable[[Specimen], Inputs]] = {
    **dict.fromkeys(("dac", "xcodec", "pe_audio_encoder", "vibevoice_acoustic_tokenizer"), _mono),
    "vibevoice_acoustic_tokenizer_encoder": _mono_under("hidden_states"),
    "muse_spark_audio": lambda x: {"input_values": x.floats(x.batch, 9 * 1920)},
    **dict.fromkeys(("xcodec2", "neucodec"), _mono_and_mel),
    "pe_audio": _mono_and_text,
    "pe_audio_video_encoder": _mono_and_clip,
    "pe_audio_video": _mono_clip_and_text,
    "mimi_decoder": _latents("hidden_size"),
    "pocket_tts_audio_tokenizer_decoder": _latents("latent_dim"),
    "vibevoice_acoustic_tokenizer_decoder": lambda x: {"hidden_states": x.floats(x.batch, x.config.hidden_size, 13)},
    **dict.fromkeys(("granite_speech5_encoder", "granite_speech5_ctc"), _mel(lambda x: 320)),
    "fun_asr_nano_encoder": _mel(lambda x: x.config.num_mel_bins * x.config.num_stacked_frames),
    "gemma4_audio": _mel(lambda x: 128),
    "gemma3n_audio": _mel(lambda x: x.config.input_feat_size, "audio_mel"),
    "nemotron3_5_transcribe_audio": _mel(lambda x: x.config.asr_config.num_mel_bins),
    "qwen3_asr_encoder": _mel(lambda x: x.config.num_mel_bins, first=True),
    "voxtral_realtime_encoder": _mel(lambda x: x.config.num_mel_bins, first=True),
    "clvp": _mel_and_text,
    "clap": _fused_mel_and_text,
    "voxtral_realtime": _streamed,
    "speecht5": _hidden_speech,
    "nemotron3_5_transcribe_word_timestamp": _hidden(),
    "dia": _spoken,
    **dict.fromkeys(("musicgen", "musicgen_melody"), _tunes),
    "kyutai_speech_to_text": _text_and_codes,
}
"""By `model_type`."""

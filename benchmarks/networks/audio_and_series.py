"""Networks of sound, speech and time series."""

from __future__ import annotations

from functools import partial
from typing import Any

from zoo_architectures import VOCABULARY, architecture
from zoo_case import Axis, f32, i64, mask

audio = partial(architecture, "audio")
series = partial(architecture, "time series")
SAMPLES = (f32("input_values", "batch", "samples"),)
LENGTHS = (Axis("samples", 800, 1600, 3203),)
WAVE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": [16, 16, 16],
    "conv_kernel": [10, 3, 3],
    "conv_stride": [5, 4, 4],
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 32,
    "apply_spec_augment": False,
    "mask_time_prob": 0.0,
}
audio("wav2vec2", "Wav2Vec2Model", SAMPLES, WAVE, axes=LENGTHS)
audio("wav2vec2-ctc", "Wav2Vec2ForCTC", (*SAMPLES, mask("attention_mask", "batch", "samples")), WAVE, axes=LENGTHS)
audio("hubert", "HubertModel", SAMPLES, WAVE, axes=LENGTHS)
audio("wavlm", "WavLMModel", SAMPLES, {**WAVE, "num_buckets": 16, "max_bucket_distance": 32}, axes=LENGTHS)
audio("unispeech", "UniSpeechModel", SAMPLES, WAVE, axes=LENGTHS)
audio("sew", "SEWModel", SAMPLES, {**WAVE, "squeeze_factor": 2}, axes=LENGTHS)
audio(
    "data2vec-audio",
    "Data2VecAudioModel",
    SAMPLES,
    {
        **WAVE,
        "num_conv_pos_embeddings": 2,
        "conv_pos_kernel_size": 5,
    },
    axes=LENGTHS,
)
WHISPER: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "num_mel_bins": 16,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_source_positions": 30,
    "max_target_positions": 30,
    "use_cache": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "begin_suppress_tokens": None,
}
audio("whisper-encoder", "WhisperForAudioClassification", (f32("input_features", "batch", 16, 60),), WHISPER)
audio(
    "whisper",
    "WhisperForConditionalGeneration",
    (f32("input_features", "batch", 16, 60), i64("decoder_input_ids", "batch", "target", below=VOCABULARY)),
    WHISPER,
    axes=(Axis("target", 2, 5, 13),),
)
audio(
    "speech-to-text-encoder",
    "Speech2TextForConditionalGeneration",
    (f32("input_features", "batch", "frames", 16), i64("decoder_input_ids", "batch", "target", below=VOCABULARY)),
    {
        **WHISPER,
        "input_feat_per_channel": 16,
        "input_channels": 1,
        "conv_channels": 32,
        "max_source_positions": 200,
    },
    axes=(Axis("target", 2, 5, 13),),
)
audio(
    "ast",
    "ASTForAudioClassification",
    (f32("input_values", "batch", 64, 16),),
    {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "patch_size": 8,
        "frequency_stride": 4,
        "time_stride": 4,
        "max_length": 64,
        "num_mel_bins": 16,
    },
)
audio(
    "encodec",
    "EncodecModel",
    (f32("input_values", "batch", 1, "samples"),),
    {
        "num_filters": 4,
        "num_residual_layers": 1,
        "upsampling_ratios": [4, 2],
        "hidden_size": 16,
        "codebook_size": 16,
        "codebook_dim": 16,
        "num_lstm_layers": 1,
        "target_bandwidths": [24.0],
        "sampling_rate": 8000,
    },
)
audio(
    "vits",
    "VitsModel",
    (i64("input_ids", "batch", "sequence", below=30),),
    {
        "vocab_size": 30,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "ffn_dim": 32,
        "flow_size": 16,
        "spectrogram_bins": 9,
        "upsample_initial_channel": 16,
        "upsample_rates": [2, 2],
        "upsample_kernel_sizes": [4, 4],
        "prior_encoder_num_flows": 1,
        "prior_encoder_num_wavenet_layers": 1,
        "posterior_encoder_num_wavenet_layers": 1,
    },
    refused="durations and noise are drawn at each call",
)
audio(
    "speecht5-encoder",
    "SpeechT5ForSpeechToText",
    (f32("input_values", "batch", "samples"), i64("decoder_input_ids", "batch", "target", below=VOCABULARY)),
    {
        **WAVE,
        "vocab_size": VOCABULARY,
        "encoder_layers": 2,
        "encoder_attention_heads": 4,
        "encoder_ffn_dim": 64,
        "decoder_layers": 2,
        "decoder_attention_heads": 4,
        "decoder_ffn_dim": 64,
        "use_cache": False,
    },
    axes=(*LENGTHS, Axis("target", 2, 5, 13)),
)
audio(
    "clap-audio",
    "ClapAudioModelWithProjection",
    (f32("input_features", "batch", 1, 64, 16),),
    {
        "num_mel_bins": 16,
        "spec_size": 32,
        "patch_size": 2,
        "patch_stride": [2, 2],
        "patch_embeds_hidden_size": 16,
        "hidden_size": 32,
        "depths": [1, 1],
        "num_attention_heads": [2, 2],
        "window_size": 4,
        "projection_dim": 16,
        "enable_fusion": False,
    },
)
audio(
    "univnet",
    "UnivNetModel",
    (
        f32("input_features", "batch", "frames", 8),
        f32("noise_sequence", "batch", "frames", 8),
    ),
    {
        "model_in_channels": 8,
        "model_hidden_channels": 8,
        "num_mel_bins": 8,
        "resblock_kernel_sizes": [3, 3],
        "resblock_stride_sizes": [2, 2],
        "resblock_dilation_sizes": [[1, 3], [1, 3]],
        "kernel_predictor_hidden_channels": 8,
    },
)

PAST = (
    f32("past_values", "batch", 19),
    f32("past_time_features", "batch", 19, 2),
    f32("past_observed_mask", "batch", 19, within=(1, 1.0001)),
    f32("future_values", "batch", 5),
    f32("future_time_features", "batch", 5, 2),
)
SERIES: dict[str, Any] = {
    "prediction_length": 5,
    "context_length": 12,
    "num_time_features": 2,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "use_cache": False,
}
series("time-series-transformer", "TimeSeriesTransformerModel", PAST, SERIES)
series(
    "informer",
    "InformerModel",
    PAST,
    {**SERIES, "attention_type": "prob", "sampling_factor": 2},
    refused="the keys that attention looks at are drawn at each call",
)
series("informer-full-attention", "InformerModel", PAST, {**SERIES, "attention_type": "full"})
PATCHES: dict[str, Any] = {
    "context_length": 32,
    "num_input_channels": 3,
    "patch_length": 4,
    "patch_stride": 4,
    "d_model": 16,
    "ffn_dim": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "prediction_length": 6,
}
series("patchtst", "PatchTSTForPrediction", (f32("past_values", "batch", 32, 3),), PATCHES)
series(
    "patchtsmixer",
    "PatchTSMixerForPrediction",
    (f32("past_values", "batch", 32, 3),),
    {
        **PATCHES,
        "num_layers": 2,
    },
)
series(
    "decision-transformer",
    "DecisionTransformerModel",
    (
        f32("states", "batch", "steps", 6),
        f32("actions", "batch", "steps", 3),
        f32("rewards", "batch", "steps", 1),
        f32("returns_to_go", "batch", "steps", 1),
        i64("timesteps", "batch", "steps", below=50),
        mask("attention_mask", "batch", "steps"),
    ),
    {
        "state_dim": 6,
        "act_dim": 3,
        "hidden_size": 32,
        "n_layer": 2,
        "n_head": 4,
        "max_ep_len": 60,
        "n_positions": 128,
        "use_cache": False,
    },
)

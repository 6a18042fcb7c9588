"""A config of every model type that is small enough to run in milliseconds, and odd enough to show a mistake.

Widths differ from each other and from the quotients that a class would assume, and layers differ in kind where the
family has kinds. Products of groups of rows want widths in steps of 16 bytes, hence the multiples of 8.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BERT: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "max_position_embeddings": 70,
    "num_attention_heads": 6,
    "num_hidden_layers": 3,
    "num_labels": 5,
    "type_vocab_size": 3,
    "vocab_size": 99,
}

DECODER: dict[str, Any] = {
    "head_dim": 10,
    "hidden_size": 48,
    "intermediate_size": 80,
    "max_position_embeddings": 256,
    "num_attention_heads": 6,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "num_labels": 5,
    "tie_word_embeddings": False,
    "vocab_size": 99,
}

QUOTIENT: dict[str, Any] = {key: value for key, value in DECODER.items() if key != "head_dim"}
"""Where the class takes no width of a head."""

PLAIN: dict[str, Any] = {key: value for key, value in QUOTIENT.items() if key != "num_key_value_heads"}
"""Where every query head has a key/value head."""

GPT: dict[str, Any] = {
    "n_embd": 48,
    "n_head": 6,
    "n_inner": 80,
    "n_layer": 3,
    "n_positions": 70,
    "num_labels": 5,
    "vocab_size": 99,
}

SMALL_TOKENS: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
"""Where the class's own would lie outside of the vocabulary."""

T5: dict[str, Any] = {
    "d_ff": 80,
    "d_kv": 10,
    "d_model": 48,
    "decoder_start_token_id": 0,
    "eos_token_id": 1,
    "is_encoder_decoder": True,
    "num_decoder_layers": 3,
    "num_heads": 6,
    "num_labels": 5,
    "num_layers": 2,
    "pad_token_id": 0,
    "relative_attention_num_buckets": 8,
    "vocab_size": 99,
}

DEEPSEEK: dict[str, Any] = {
    "first_k_dense_replace": 1,
    "hidden_size": 48,
    "intermediate_size": 80,
    "kv_lora_rank": 16,
    "max_position_embeddings": 256,
    "moe_intermediate_size": 24,
    "n_group": 2,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "num_attention_heads": 6,
    "num_experts_per_tok": 3,
    "num_hidden_layers": 3,
    "num_key_value_heads": 6,
    "num_labels": 5,
    "q_lora_rank": 24,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 4,
    "tie_word_embeddings": False,
    "topk_group": 2,
    "v_head_dim": 12,
    "vocab_size": 99,
}

LATENT: dict[str, Any] = {key: value for key, value in DEEPSEEK.items() if key != "first_k_dense_replace"}
"""Where a list says which layers are dense."""

DENSE_LATENT: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "kv_lora_rank": 16,
    "num_attention_heads": 6,
    "num_hidden_layers": 3,
    "num_key_value_heads": 6,
    "num_labels": 5,
    "q_lora_rank": 24,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 4,
    "v_head_dim": 12,
    "vocab_size": 99,
}

INDEXED: dict[str, Any] = {**LATENT, "index_head_dim": 14, "index_n_heads": 3, "index_topk": 5}

EXPERTS: dict[str, Any] = {**DECODER, "num_experts": 6, "num_experts_per_tok": 3}

SHARED_EXPERTS: dict[str, Any] = {
    **DECODER,
    "moe_intermediate_size": 24,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
}

PLAIN_SHARED_EXPERTS: dict[str, Any] = {
    **EXPERTS,
    "moe_intermediate_size": 24,
    "num_shared_experts": 2,
}

MINIMAX_M3: dict[str, Any] = {
    **DECODER,
    "dense_intermediate_size": 56,
    "head_dim": 16,
    "moe_layer_freq": [0, 1, 1],
    "num_experts_per_tok": 3,
    "num_local_experts": 6,
    "rotary_dim": 8,
    "shared_intermediate_size": 40,
    "sparse_attention_config": {
        "sparse_attention_freq": [0, 1, 0],
        "sparse_block_size": 4,
        "sparse_index_dim": 16,
        "sparse_num_index_heads": 2,
        "sparse_topk_blocks": 2,
    },
}

VISION: dict[str, Any] = {
    "hidden_size": 40,
    "image_size": 32,
    "intermediate_size": 56,
    "num_attention_heads": 4,
    "num_channels": 3,
    "num_hidden_layers": 2,
    "patch_size": 8,
}

QWEN_MOE: dict[str, Any] = {
    **DECODER,
    "decoder_sparse_step": 1,
    "moe_intermediate_size": 32,
    "num_experts": 6,
    "num_experts_per_tok": 3,
}

GEMMA3_TEXT: dict[str, Any] = {
    **DECODER,
    "query_pre_attn_scalar": 10,
    "sliding_window": 8,
    "sliding_window_pattern": 2,
    "tie_word_embeddings": True,
}

MAMBA: dict[str, Any] = {
    "conv_kernel": 3,
    "hidden_size": 48,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "state_size": 6,
    "time_step_rank": 7,
    "vocab_size": 99,
}

TOWER: dict[str, Any] = {**VISION, "image_size": 16, "num_hidden_layers": 3}
"""An image of four patches, so that it fits a short text."""

TEXT_TOWER: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 72,
    "max_position_embeddings": 70,
    "num_attention_heads": 6,
    "num_hidden_layers": 3,
    "vocab_size": 99,
}

IMAGE_TOKENS: dict[str, Any] = {
    "image_token_id": 92,
    "video_token_id": 93,
    "vision_end_token_id": 95,
    "vision_start_token_id": 94,
}

GEMMA4_TEXT: dict[str, Any] = {
    **{key: value for key, value in DECODER.items() if key != "tie_word_embeddings"},
    "attention_k_eq_v": True,
    "global_head_dim": 16,
    "hidden_size_per_layer_input": 8,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention", "full_attention"],
    "num_global_key_value_heads": 3,
    "num_hidden_layers": 5,
    "num_kv_shared_layers": 2,
    "pad_token_id": 0,
    "sliding_window": 8,
    "use_double_wide_mlp": True,
    "vocab_size_per_layer_input": 101,
}

LLAMA4_TEXT: dict[str, Any] = {
    **DECODER,
    "attention_chunk_size": 8,
    "interleave_moe_layer_step": 2,
    "intermediate_size_mlp": 88,
    "no_rope_layer_interval": 3,
    "num_experts_per_tok": 1,
    "num_hidden_layers": 4,
    "num_local_experts": 4,
}

MLLAMA_TEXT: dict[str, Any] = {
    "cross_attention_layers": [1, 3],
    "hidden_size": 48,
    "intermediate_size": 72,
    "max_position_embeddings": 70,
    "num_attention_heads": 6,
    "num_hidden_layers": 5,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "vocab_size": 99,
}

QWEN_VL_TOWER: dict[str, Any] = {
    "depth": 4,
    "image_size": 32,
    "num_heads": 5,
    "patch_size": 8,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
"""Its rotary positions want heads whose width is a multiple of 4."""

QWEN2_VL: dict[str, Any] = {
    **{key: value for key, value in DECODER.items() if key != "head_dim"},
    **IMAGE_TOKENS,
    "rope_scaling": {"mrope_section": [1, 1, 2], "type": "mrope"},
}

QWEN3_VL_TEXT: dict[str, Any] = {
    **DECODER,
    "num_hidden_layers": 4,
    "rope_scaling": {"mrope_section": [2, 2, 1], "rope_type": "default"},
}

QWEN3_VL_TOWER: dict[str, Any] = {
    **QWEN_VL_TOWER,
    "deepstack_visual_indexes": [1, 2],
    "hidden_size": 40,
    "intermediate_size": 56,
    "num_position_embeddings": 36,
    "out_hidden_size": 48,
}

QWEN3_VISION: dict[str, Any] = {
    "depth": 2,
    "hidden_size": 40,
    "in_channels": 3,
    "intermediate_size": 56,
    "num_heads": 4,
    "num_position_embeddings": 16,
    "out_hidden_size": 48,
    "patch_size": 8,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}

QWEN_HYBRID: dict[str, Any] = {
    **DECODER,
    "full_attention_interval": 2,
    "linear_conv_kernel_dim": 3,
    "linear_key_head_dim": 6,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_value_head_dim": 10,
    "moe_intermediate_size": 24,
    "num_experts": 6,
    "num_experts_per_tok": 3,
    "num_hidden_layers": 4,
    "shared_expert_intermediate_size": 56,
}

SEQ2SEQ: dict[str, Any] = {
    "d_model": 48,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 56,
    "decoder_layers": 3,
    "decoder_start_token_id": 2,
    "encoder_attention_heads": 6,
    "encoder_ffn_dim": 80,
    "encoder_layers": 2,
    "eos_token_id": 2,
    "max_position_embeddings": 70,
    "num_labels": 5,
    "pad_token_id": 1,
    "vocab_size": 99,
}

DEBERTA: dict[str, Any] = {
    **BERT,
    "max_relative_positions": 9,
    "pos_att_type": ["c2p", "p2c"],
    "position_biased_input": False,
    "relative_attention": True,
    "type_vocab_size": 0,
}

T5GEMMA: dict[str, Any] = {
    **DECODER,
    "model_type": "t5_gemma_module",
    "pad_token_id": 0,
    "query_pre_attn_scalar": 10,
    "sliding_window": 8,
    "tie_word_embeddings": True,
}

TINY: Mapping[str, Mapping[str, Any]] = {
    "afmoe": {**PLAIN_SHARED_EXPERTS, "global_attn_every_n_layers": 3, "sliding_window": 8},
    "albert": {**BERT, "embedding_size": 20, "inner_group_num": 2, "num_hidden_groups": 3, "num_hidden_layers": 6},
    "apertus": QUOTIENT,
    "arcee": {**DECODER, "mlp_bias": True},
    "axk1": {**LATENT, "mlp_layer_types": ["sparse", "dense", "sparse"]},
    "bart": SEQ2SEQ,
    "bert": BERT,
    "biogpt": {**PLAIN, "max_position_embeddings": 70},
    "bloom": {"hidden_size": 48, "n_head": 6, "n_layer": 3, "num_labels": 5, "vocab_size": 99},
    "clip": {
        "num_labels": 5,
        "projection_dim": 24,
        "text_config": {"model_type": "clip_text_model", "projection_dim": 20, **TEXT_TOWER},
        "vision_config": {"model_type": "clip_vision_model", "projection_dim": 28, **TOWER},
    },
    "clip_text_model": {"projection_dim": 20, **TEXT_TOWER},
    "clip_vision_model": {"projection_dim": 28, **TOWER},
    "codegen": {**GPT, "n_head": 8, "rotary_dim": 4},
    "cohere": {**QUOTIENT, "use_qk_norm": True},
    "cohere2": {**QUOTIENT, "sliding_window": 8, "sliding_window_pattern": 3},
    "dbrx": {
        "attn_config": {"clip_qkv": 8, "kv_n_heads": 2, "rope_theta": 10000.0},
        "d_model": 48,
        "ffn_config": {"ffn_hidden_size": 24, "moe_num_experts": 6, "moe_top_k": 3},
        "n_heads": 6,
        "n_layers": 3,
        "vocab_size": 99,
    },
    "deberta": DEBERTA,
    "deberta-v2": {
        **DEBERTA,
        "conv_kernel_size": 3,
        "norm_rel_ebd": "layer_norm",
        "position_buckets": 4,
        "share_att_key": True,
    },
    "deepseek_v2": {**DEEPSEEK, "mlp_bias": True},
    "deepseek_v3": DEEPSEEK,
    "deepseek_v32": INDEXED,
    "deepseek_v4": {
        "compress_rates": {"compressed_sparse_attention": 2, "heavily_compressed_attention": 5},
        "head_dim": 16,
        "hc_mult": 3,
        "hidden_size": 48,
        "index_head_dim": 14,
        "index_n_heads": 3,
        "index_topk": 3,
        "layer_types": ["sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"],
        "moe_intermediate_size": 24,
        "n_routed_experts": 8,
        "num_attention_heads": 6,
        "num_experts_per_tok": 3,
        "num_hidden_layers": 3,
        "o_groups": 2,
        "o_lora_rank": 20,
        "q_lora_rank": 24,
        "qk_rope_head_dim": 8,
        "sliding_window": 8,
        "vocab_size": 99,
    },
    "dinov2": {"mlp_ratio": 3, "num_labels": 5, "use_swiglu_ffn": True, **VISION},
    "dinov2_with_registers": {"mlp_ratio": 3, "num_labels": 5, "num_register_tokens": 3, **VISION},
    "distilbert": {
        "dim": 48,
        "hidden_dim": 80,
        "max_position_embeddings": 70,
        "n_heads": 6,
        "n_layers": 3,
        "vocab_size": 99,
    },
    "dots1": {**SHARED_EXPERTS, "first_k_dense_replace": 1, "max_window_layers": 1, "sliding_window": 8},
    "electra": {**BERT, "embedding_size": 20},
    "ernie4_5": DECODER,
    "ernie4_5_moe": {
        **DECODER,
        "moe_intermediate_size": 24,
        "moe_k": 3,
        "moe_num_experts": 6,
        "moe_num_shared_experts": 2,
        "tie_word_embeddings": True,
        "use_bias": True,
    },
    "exaone4": {**DECODER, "sliding_window": 8, "sliding_window_pattern": 3},
    "exaone_moe": {**PLAIN_SHARED_EXPERTS, "sliding_window": 8, "sliding_window_pattern": 2},
    "falcon": {**PLAIN, "new_decoder_architecture": True, "num_kv_heads": 2},
    "falcon_mamba": MAMBA,
    "flex_olmo": {**QUOTIENT, "num_experts": 6, "num_experts_per_tok": 3, "pad_token_id": 0},
    "gemma": {**DECODER, "num_key_value_heads": 1, "tie_word_embeddings": True},
    "gemma2": {**DECODER, "query_pre_attn_scalar": 10, "sliding_window": 8, "tie_word_embeddings": True},
    "gemma3": {
        "boi_token_index": 90,
        "eoi_token_index": 91,
        "image_token_index": 92,
        "mm_tokens_per_image": 4,
        "text_config": {"model_type": "gemma3_text", **GEMMA3_TEXT},
        "tie_word_embeddings": True,
        "vision_config": {"model_type": "siglip_vision_model", "vision_use_head": False, **VISION},
    },
    "gemma3_text": GEMMA3_TEXT,
    "gemma4": {
        "audio_config": {
            "hidden_size": 32,
            "model_type": "gemma4_audio",
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
            "output_proj_dims": 24,
            "subsampling_conv_channels": [8, 4],
        },
        "audio_token_id": 91,
        "image_token_id": 92,
        "text_config": {
            "model_type": "gemma4_text",
            **GEMMA4_TEXT,
            "enable_moe_block": True,
            "moe_intermediate_size": 24,
            "num_experts": 4,
            "top_k_experts": 2,
        },
        "video_token_id": 93,
        "vision_config": {
            "head_dim": 12,
            "hidden_size": 40,
            "intermediate_size": 56,
            "model_type": "gemma4_vision",
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
            "num_key_value_heads": 2,
            "patch_size": 4,
            "pooling_kernel_size": 2,
            "position_embedding_size": 20,
        },
        "vision_soft_tokens_per_image": 4,
    },
    "gemma4_text": GEMMA4_TEXT,
    "glm": {**DECODER, "head_dim": 16, "pad_token_id": 0},
    "glm4": {**DECODER, "head_dim": 16, "pad_token_id": 0},
    "glm4_moe": {**SHARED_EXPERTS, "head_dim": 16, "use_qk_norm": True},
    "glm4_moe_lite": LATENT,
    "glm_moe_dsa": {**INDEXED, "indexer_types": ["full", "shared", "full"]},
    "gpt2": GPT,
    "gpt_bigcode": GPT,
    "gpt_neo": {
        **PLAIN,
        "attention_types": [[["global", "local"], 1], [["global"], 1]],
        # The class masks what lies before a window and does not drop it, so that no test may reach beyond one.
        "window_size": 64,
    },
    "gpt_neox": PLAIN,
    "gpt_oss": {**DECODER, "num_experts_per_tok": 2, "num_local_experts": 4, "sliding_window": 8},
    "gptj": {**GPT, "rotary_dim": 4},
    "granite": {**QUOTIENT, "attention_bias": True},
    "granitemoe": {**QUOTIENT, "num_experts_per_tok": 3, "num_local_experts": 6},
    "granitemoeshared": {
        **QUOTIENT,
        "num_experts_per_tok": 3,
        "num_local_experts": 6,
        "shared_intermediate_size": 56,
    },
    "helium": {**DECODER, "head_dim": 8},
    "hunyuan_v1_dense": DECODER,
    "hunyuan_v1_moe": {**DECODER, "moe_topk": [1, 2, 2], "num_experts": 6},
    "hy_v3": {**PLAIN_SHARED_EXPERTS, "mlp_bias": True},
    "idefics3": {
        "image_token_id": 92,
        "text_config": {"model_type": "llama", **DECODER},
        "vision_config": {"model_type": "idefics3_vision", **TOWER, "patch_size": 4},
    },
    "jamba": {
        **DECODER,
        "attn_layer_offset": 1,
        "attn_layer_period": 3,
        "mamba_d_conv": 3,
        "mamba_d_state": 6,
        "mamba_dt_rank": 7,
        "num_experts": 4,
        "num_hidden_layers": 5,
    },
    "kimi_k2": {**DEEPSEEK, "n_group": 1, "n_shared_experts": 1, "topk_group": 1},
    "kimi_k25": {
        "image_token_id": 92,
        "projection_hidden_size": 40,
        "text_config": {"model_type": "deepseek_v3", **DEEPSEEK},
        "tie_word_embeddings": False,
        "video_token_id": 93,
        "vision_config": {
            "hidden_size": 40,
            "intermediate_size": 56,
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
            "patch_size": 8,
            "pos_emb_height": 4,
            "pos_emb_width": 4,
        },
    },
    "llama": DECODER,
    "llama4": {
        "image_token_index": 92,
        "text_config": {"model_type": "llama4_text", **LLAMA4_TEXT},
        "vision_config": {
            "model_type": "llama4_vision_model",
            **TOWER,
            "image_size": 32,
            "intermediate_size": 160,
            "num_attention_heads": 5,
            "projector_input_dim": 56,
            "projector_output_dim": 56,
            "vision_output_dim": 56,
        },
    },
    "llama4_text": LLAMA4_TEXT,
    "llava": {
        "image_token_index": 92,
        "text_config": {"model_type": "llama", **DECODER},
        "vision_config": {"model_type": "clip_vision_model", **TOWER},
    },
    "longcat_flash": {
        # What a token visits is an average where some experts do nothing, and the class keeps slices for those.
        "expert_ffn_hidden_size": 24,
        "ffn_hidden_size": 80,
        "head_dim": 4,
        "hidden_size": 48,
        "kv_lora_rank": 16,
        "moe_topk": 3,
        "n_routed_experts": 6,
        "num_attention_heads": 6,
        "num_layers": 2,
        "q_lora_rank": 24,
        "qk_nope_head_dim": 10,
        "qk_rope_head_dim": 4,
        "v_head_dim": 12,
        "vocab_size": 99,
        "zero_expert_num": 0,
    },
    "mamba": MAMBA,
    "mamba2": {
        "conv_kernel": 3,
        "head_dim": 8,
        "hidden_size": 48,
        "n_groups": 4,
        "num_heads": 12,
        "num_hidden_layers": 3,
        "state_size": 6,
        "vocab_size": 99,
    },
    "marian": {**SEQ2SEQ, "decoder_vocab_size": 110, "share_encoder_decoder_embeddings": False},
    "mbart": SEQ2SEQ,
    "mimo_v2_flash": {
        **SHARED_EXPERTS,
        "head_dim": 24,
        "num_key_value_heads": 3,
        "sliding_window": 8,
        "v_head_dim": 16,
    },
    "minicpm3": DENSE_LATENT,
    "minimax_m2": {**DECODER, "head_dim": 16, "num_experts_per_tok": 3, "num_local_experts": 6, "rotary_dim": 8},
    "minimax_m3_vl": {
        "image_token_index": 92,
        "projector_hidden_size": 56,
        "text_config": MINIMAX_M3,
        "video_token_index": 93,
        "vision_config": VISION,
    },
    "minimax_m3_vl_text": MINIMAX_M3,
    "ministral3": {**DECODER, "head_dim": 16, "sliding_window": 8},
    "mistral": {**DECODER, "sliding_window": 8},
    "mistral3": {
        "image_token_index": 92,
        "text_config": {"model_type": "ministral3", **DECODER, "head_dim": 16},
        "vision_config": {"model_type": "pixtral", **VISION},
    },
    "mistral4": DEEPSEEK,
    "mixtral": {**DECODER, "num_experts_per_tok": 2, "num_local_experts": 4, "sliding_window": None},
    "mllama": {
        "image_token_index": 99,
        "text_config": {"model_type": "mllama_text_model", **MLLAMA_TEXT},
        "vision_config": {
            "attention_heads": 4,
            "hidden_size": 40,
            "image_size": 32,
            "intermediate_layers_indices": [1, 3],
            "intermediate_size": 56,
            "max_num_tiles": 4,
            "model_type": "mllama_vision_model",
            "num_global_layers": 2,
            "num_hidden_layers": 5,
            "patch_size": 8,
            "vision_output_dim": 120,
        },
    },
    "mllama_text_model": MLLAMA_TEXT,
    "modernbert": {
        "cls_token_id": 1,
        "hidden_size": 48,
        "intermediate_size": 80,
        "local_attention": 8,
        "num_attention_heads": 6,
        "num_hidden_layers": 5,
        "num_labels": 5,
        "vocab_size": 99,
        **SMALL_TOKENS,
    },
    "mpt": {"d_model": 48, "max_seq_len": 70, "n_heads": 6, "n_layers": 3, "num_labels": 5, "vocab_size": 99},
    "mt5": {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "nemotron": DECODER,
    "nemotron_h": {
        "conv_kernel": 3,
        "head_dim": 10,
        "hidden_size": 48,
        "hybrid_override_pattern": "MEM*-",
        "intermediate_size": 80,
        "mamba_head_dim": 10,
        "mamba_num_heads": 6,
        "moe_intermediate_size": 24,
        "moe_latent_size": 16,
        "moe_shared_expert_intermediate_size": 56,
        "n_groups": 3,
        "n_routed_experts": 4,
        "num_attention_heads": 6,
        "num_hidden_layers": 5,
        "num_key_value_heads": 2,
        "ssm_state_size": 6,
        "vocab_size": 99,
    },
    "olmo": QUOTIENT,
    "olmo2": QUOTIENT,
    "olmo3": {**QUOTIENT, "num_hidden_layers": 4, "sliding_window": 8},
    "olmoe": {**QUOTIENT, "num_experts": 6, "num_experts_per_tok": 3},
    "opt": {
        "ffn_dim": 80,
        "hidden_size": 48,
        "max_position_embeddings": 70,
        "num_attention_heads": 6,
        "num_hidden_layers": 3,
        "num_labels": 5,
        "vocab_size": 99,
        "word_embed_proj_dim": 20,
    },
    "paligemma": {
        "image_token_index": 92,
        "projection_dim": 48,
        "text_config": {"model_type": "gemma", **DECODER, "num_key_value_heads": 1, "tie_word_embeddings": True},
        "vision_config": {"model_type": "siglip_vision_model", "vision_use_head": False, **TOWER},
    },
    "pegasus": SEQ2SEQ,
    "persimmon": PLAIN,
    "phi": QUOTIENT,
    "phi3": {**QUOTIENT, **SMALL_TOKENS, "sliding_window": 8},
    "phimoe": {**QUOTIENT, "lm_head_bias": True, "num_experts_per_tok": 2, "num_local_experts": 6},
    "qwen2": {**DECODER, "max_window_layers": 1, "sliding_window": 8, "use_sliding_window": True},
    "qwen2_5_vl": {
        **QWEN2_VL,
        "vision_config": {
            **QWEN_VL_TOWER,
            "fullatt_block_indexes": [1, 3],
            "hidden_size": 40,
            "image_size": 16,
            "intermediate_size": 56,
            "out_hidden_size": 48,
            "patch_size": 4,
            "window_size": 8,
        },
    },
    "qwen2_moe": {**QWEN_MOE, "num_hidden_layers": 4, "mlp_only_layers": [2], "shared_expert_intermediate_size": 56},
    "qwen2_vl": {
        **QWEN2_VL,
        "vision_config": {**QWEN_VL_TOWER, "embed_dim": 40, "hidden_size": 48, "mlp_ratio": 3},
    },
    "qwen3": DECODER,
    "qwen3_5": {
        "num_labels": 5,
        "text_config": {"model_type": "qwen3_5_text", **QWEN_HYBRID},
        "tie_word_embeddings": False,
        "vision_config": {"model_type": "qwen3_5_vision", **QWEN3_VISION},
    },
    "qwen3_5_moe": {
        "text_config": {"model_type": "qwen3_5_moe_text", **QWEN_HYBRID},
        "tie_word_embeddings": False,
        "vision_config": {"model_type": "qwen3_5_moe_vision", **QWEN3_VISION},
    },
    "qwen3_5_moe_text": QWEN_HYBRID,
    "qwen3_5_text": QWEN_HYBRID,
    "qwen3_moe": {**QWEN_MOE, "num_hidden_layers": 4, "decoder_sparse_step": 2},
    "qwen3_next": {**QWEN_HYBRID, "mlp_only_layers": [1]},
    "qwen3_vl": {
        **IMAGE_TOKENS,
        "text_config": {"attention_bias": True, **QWEN3_VL_TEXT},
        "vision_config": QWEN3_VL_TOWER,
    },
    "qwen3_vl_moe": {
        **IMAGE_TOKENS,
        "text_config": {
            **QWEN_MOE,
            **QWEN3_VL_TEXT,
            "decoder_sparse_step": 2,
            "mlp_only_layers": [3],
        },
        "vision_config": QWEN3_VL_TOWER,
    },
    "recurrent_gemma": {
        **DECODER,
        "attention_window_size": 8,
        "conv1d_width": 3,
        "lru_width": 36,
        "tie_word_embeddings": True,
    },
    "roberta": {**BERT, "pad_token_id": 1},
    "rwkv": {
        "attention_hidden_size": 40,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "vocab_size": 99,
    },
    "sarvam_mla": {**DEEPSEEK, "n_group": 1, "topk_group": 1},
    "sarvam_moe": {**SHARED_EXPERTS, "head_dim": 16},
    "seed_oss": DECODER,
    "siglip": {
        "text_config": {"model_type": "siglip_text_model", "projection_size": 40, **TEXT_TOWER},
        "vision_config": {"model_type": "siglip_vision_model", **TOWER},
    },
    "siglip_text_model": {"projection_size": 24, **TEXT_TOWER},
    "siglip_vision_model": TOWER,
    "smollm3": {
        **QUOTIENT,
        **SMALL_TOKENS,
        "no_rope_layer_interval": 2,
        "sliding_window": 8,
        "use_sliding_window": True,
    },
    "solar_open": {key: value for key, value in SHARED_EXPERTS.items() if key != "intermediate_size"},
    "smolvlm": {
        "image_token_id": 92,
        "text_config": {"model_type": "llama", **DECODER},
        "tie_word_embeddings": True,
        "vision_config": {"model_type": "smolvlm_vision", **TOWER, "patch_size": 4},
    },
    "stablelm": {**QUOTIENT, "qk_layernorm": True, "use_qkv_bias": True},
    "starcoder2": {**DECODER, "sliding_window": 8},
    "t5": {**T5, "feed_forward_proj": "relu", "tie_word_embeddings": True},
    "t5gemma": {
        "decoder": T5GEMMA,
        "encoder": {**T5GEMMA, "hidden_size": 40, "num_attention_heads": 4, "num_hidden_layers": 2},
        "num_labels": 5,
        "pad_token_id": 0,
    },
    "vipllava": {
        "image_token_index": 92,
        "text_config": {"model_type": "llama", **DECODER},
        "vision_config": {"model_type": "clip_vision_model", **TOWER},
        "vision_feature_layer": [-2, 1],
    },
    "vit": {**VISION, "encoder_stride": 8, "num_labels": 5},
    "whisper": {
        **SEQ2SEQ,
        "bos_token_id": 0,
        "classifier_proj_size": 20,
        "max_source_positions": 11,
        "max_target_positions": 70,
        "num_mel_bins": 7,
    },
    "xglm": {
        "attention_heads": 6,
        "d_model": 48,
        "ffn_dim": 80,
        "num_labels": 5,
        "num_layers": 3,
        "vocab_size": 99,
    },
    "xlm-roberta": {**BERT, "pad_token_id": 1},
    "xlnet": {
        "d_inner": 80,
        "d_model": 48,
        "end_n_top": 2,
        "n_head": 6,
        "n_layer": 3,
        "num_labels": 5,
        "pad_token_id": 0,
        "start_n_top": 3,
        "vocab_size": 99,
    },
    "youtu": DENSE_LATENT,
    "zamba": {
        "attn_layer_offset": 1,
        "attn_layer_period": 2,
        "hidden_size": 48,
        "intermediate_size": 80,
        "mamba_d_conv": 3,
        "mamba_d_state": 6,
        "mamba_dt_rank": 7,
        "n_mamba_heads": 3,
        "num_attention_heads": 6,
        "num_hidden_layers": 6,
        "num_key_value_heads": 2,
        "num_labels": 5,
        "vocab_size": 99,
    },
}
"""Keys by model type."""


def tiny_config(model_type: str, **changes: object) -> dict[str, Any]:
    """Small config of a model type as a config.json would state it, with some keys changed."""
    return {"model_type": model_type, **TINY[model_type], **changes}

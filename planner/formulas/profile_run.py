"""What an engine holds while it computes: sampler, layers, kernels' workspaces, images, graphs, buffers."""

from __future__ import annotations

from planner.numeric import Num, maximum, minimum


def sampler_bytes(sequences: Num, vocabulary: Num, bytes_per_logit: Num, kernel_rows: Num, kernel_bytes: Num) -> Num:
    """What a sampler holds at once for one token of every sequence.

    Parameters
    ----------
    sequences : Num
        Sequences that are sampled: all that the engine may run. [-]
    vocabulary : Num
        Logits of each, padded as the head is. [-]
    bytes_per_logit : Num
        Of all tensors of that shape that are alive at the peak. [B]
    kernel_rows : Num
        Rows of a buffer of the kernel's own: one for each of its programs, and no more than sequences. [-]
    kernel_bytes : Num
        Of each element of that buffer. [B]

    Returns
    -------
    Num
        [B]

    References
    ----------
    .. [1] vLLM, v1/sample/ops/topk_topp_sampler.py. Sorting logits natively holds them in bf16 (2 B) and fp32 (4),
       their sorted values (4) and places (8), and what cub needs: places in reverse (8), and second copies of values
       and places (12): 38 B. The Triton kernel sorts nothing: bf16 (2), fp32 (4), probabilities (4), noise (4): 14 B.

    Examples
    --------
    >>> round(sampler_bytes(1024, 151936, 38, 0, 0) / 2**30, 3)
    5.506
    >>> round(sampler_bytes(1024, 151936, 14, 132, 4) / 2**30, 3)
    2.103
    """
    return sequences * vocabulary * bytes_per_logit + minimum(sequences, kernel_rows) * vocabulary * kernel_bytes


def sampled_hidden_bytes(tokens: Num, sequences: Num, hidden: Num, element_bytes: Num) -> Num:
    """Hidden states that are alive while tokens are sampled: of all new tokens, and of those that get logits.

    Parameters
    ----------
    tokens : Num
        New tokens of the step. [token]
    sequences : Num
        Sequences. [-]
    hidden : Num
        Width of the model. [-]
    element_bytes : Num
        Of an activation. [B]

    Returns
    -------
    Num
        [B]

    References
    ----------
    .. [1] vLLM, v1/worker/gpu_model_runner.py: _dummy_run returns hidden_states and hidden_states[logit_indices]

    Examples
    --------
    >>> sampled_hidden_bytes(8192, 1024, 4096, 2) / 2**20
    72.0
    """
    return (tokens + sequences) * hidden * element_bytes


def layer_peak_bytes(tokens: Num, first_width: Num, inner: Num, hidden: Num, element_bytes: Num) -> Num:
    """What an MLP holds at once: its first product, what its activation makes of it, and three hidden states.

    Parameters
    ----------
    tokens : Num
        New tokens of the step. [token]
    first_width : Num
        Outputs of its first matrix on one rank: gate and up together where it is gated. [-]
    inner : Num
        Inputs of its last matrix on one rank. [-]
    hidden : Num
        Width of the model. [-]
    element_bytes : Num
        Of an activation. [B]

    Returns
    -------
    Num
        [B]

    References
    ----------
    .. [1] vLLM, model_executor/models/llama.py: gate_up_proj and SiluAndMul, beside the residual, the norm's output and
       the hidden states that the step began with

    Examples
    --------
    >>> round(layer_peak_bytes(29000, 28672, 14336, 4096, 2) / 2**30, 2)  # Llama-3.1-8B, measured 2.99 on an RTX 3090
    2.99
    """
    return tokens * (first_width + inner + 3 * hidden) * element_bytes


def expert_workspace_bytes(
    tokens: Num, top_k: Num, first_width: Num, inner: Num, hidden: Num, inner_floor: Num, element_bytes: Num
) -> Num:
    """Workspace of the fused kernel of routed experts: two buffers that its three steps share.

    Parameters
    ----------
    tokens : Num
        New tokens of the step. [token]
    top_k : Num
        Experts that each visits. [-]
    first_width : Num
        Outputs of the first matrix on one rank: gate and up together where it is gated. [-]
    inner : Num
        Inputs of the last matrix on one rank. [-]
    hidden : Num
        Width of the model. [-]
    inner_floor : Num
        The buffer in front of the last matrix is no narrower: as wide as the model where it takes results too. [-]
    element_bytes : Num
        Of an activation. [B]

    Returns
    -------
    Num
        [B]

    References
    ----------
    .. [1] vLLM, model_executor/layers/fused_moe: TritonExperts.workspace_shapes: (tokens, top_k, max(inner, hidden))
       and (tokens, top_k, max(first, hidden)); CutlassExpertsFp8.workspace_shapes: the former only inner

    Examples
    --------
    >>> expert_workspace_bytes(8192, 8, 1536, 768, 2048, 2048, 2) / 2**30  # Qwen3-30B-A3B
    0.5
    """
    return tokens * top_k * (maximum(inner, inner_floor) + maximum(first_width, hidden)) * element_bytes


def image_profile_bytes(tokens: Num, hidden: Num, pixels_per_token: Num, pixel_bytes: Num, element_bytes: Num) -> Num:
    """Images that an engine encodes to find its peak: as many as fill a step, their pixels and what they become.

    Parameters
    ----------
    tokens : Num
        New tokens of the step, all of which images yield. [token]
    hidden : Num
        Width of the model. [-]
    pixels_per_token : Num
        Values of an image for each token that it becomes, over all channels. [-]
    pixel_bytes, element_bytes : Num
        Of such a value, and of an activation. [B]

    Returns
    -------
    Num
        [B]

    References
    ----------
    .. [1] vLLM, v1/worker/gpu_model_runner.py: profile_run keeps batched_dummy_mm_inputs and encoder_cache

    Examples
    --------
    >>> image_profile_bytes(8192, 5376, 9408, 2, 2) / 2**20  # Gemma-3-27B: 3 * 896**2 / 256 values a token
    231.0
    """
    return tokens * (hidden * element_bytes + pixels_per_token * pixel_bytes)


def captured_sizes(largest: Num, fine_until: Num) -> Num:
    """Batch sizes that CUDA graphs are captured for: 1, 2, 4, multiples of 8, and further up of 16.

    Parameters
    ----------
    largest : Num
        Largest of them. [-]
    fine_until : Num
        Multiples of 8 up to here. [-]

    Returns
    -------
    Num
        [-]

    References
    ----------
    .. [1] vLLM 0.11, config/vllm.py: _set_cudagraph_sizes

    Examples
    --------
    >>> captured_sizes(512, 256), captured_sizes(512, 512), captured_sizes(64, 256)
    (51, 67, 11)
    """
    return 3 + minimum(largest, fine_until) // 8 + maximum(largest - fine_until, 0) // 16


def graph_bytes(fixed_bytes: Num, layer_bytes: Num, layers: Num, sizes: Num, usual_sizes: Num) -> Num:
    """Memory of captured CUDA graphs: of the driver, for each layer and captured batch size.

    Parameters
    ----------
    fixed_bytes, layer_bytes : Num
        Measured at `usual_sizes`: what does not depend on the layers, and what each adds. [B]
    layers : Num
        Of the stage. [-]
    sizes, usual_sizes : Num
        Batch sizes that are captured, and were where it was measured. [-]

    Returns
    -------
    Num
        [B]

    References
    ----------
    .. [1] Least squares over start-up logs of vLLM on H100s; the catalog names the rows

    Examples
    --------
    >>> graph_bytes(100, 10, 32, 51, 51), graph_bytes(100, 10, 32, 0, 51)
    (420.0, 0.0)
    """
    return (fixed_bytes + layer_bytes * layers) * sizes / usual_sizes


def expanded_latent_bytes(tokens: Num, heads: Num, width: Num, element_bytes: Num) -> Num:
    """Keys and values that latents are expanded to, of a piece of the past that a prompt looks at.

    Parameters
    ----------
    tokens : Num
        Of the piece. [token]
    heads : Num
        Query heads of a rank. [-]
    width : Num
        Of a head's key without its rotated part, and of its value. [-]
    element_bytes : Num
        Of an activation. [B]

    Returns
    -------
    Num
        [B]

    References
    ----------
    .. [1] vLLM, v1/attention/backends/mla/common.py: the profile run makes room for kv_b_proj of a whole workspace

    Examples
    --------
    >>> expanded_latent_bytes(65536, 16, 256, 2) / 2**30  # DeepSeek-V3 on 8 ranks
    0.5
    """
    return tokens * heads * width * element_bytes


def compute_buffer_bytes(ubatch: Num, context: Num, score_heads: Num, hidden: Num, inner: Num, vocabulary: Num) -> Num:
    """Compute buffer of llama.cpp: the largest of attention, MLP and output, beside the mask and what a layer reads.

    Parameters
    ----------
    ubatch : Num
        Tokens that are computed at once. [token]
    context : Num
        Cells that they look at. [token]
    score_heads : Num
        Heads whose scores are kept in fp32; 0 with flash attention. [-]
    hidden, inner : Num
        Width of the model and of its MLP. [-]
    vocabulary : Num
        Logits; 0 where the output matrix lies elsewhere. [-]

    Returns
    -------
    Num
        All in fp32. [B]

    References
    ----------
    .. [1] llama.cpp, src/llama-graph.cpp: build_attn_mha, build_ffn, build_inp_out_ids; ggml-alloc reuses what is read

    Examples
    --------
    >>> round(compute_buffer_bytes(512, 16000, 32, 4096, 14336, 0) / 2**20, 2)  # Mixtral-8x7B, measured 1083.28
    1063.25
    """
    attention = ubatch * context * score_heads
    wide = maximum(attention, maximum(2 * ubatch * inner, ubatch * vocabulary))
    return 4 * (wide + ubatch * context + 4 * ubatch * hidden)

"""Images beside text: the pixels that a class takes, and what it must know before it can be traced."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from planner.errors import UnsupportedError
from planner.families.composed import ImageTextConfig
from planner.families.config import ComposedConfig, ModelConfig
from planner.workload import Step

Random = Callable[..., Tensor]
"""Random tensor of the sizes that it is called with."""

UNRETURNED = ("SiglipMultiheadAttentionPoolingHead",)
"""Modules whose output some models compute and drop, so that a trace would leave them out."""


@contextmanager
def returned_as_well(model: nn.Module) -> Iterator[list[Tensor]]:
    """Outputs of the modules `UNRETURNED`, collected while the model runs."""
    dropped: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output: dropped.append(output))
        for module in model.modules()
        if type(module).__name__ in UNRETURNED
    ]
    try:
        yield dropped
    finally:
        for hook in hooks:
            hook.remove()


@dataclass(frozen=True, slots=True)
class Images:
    """What a step's images add to a call.

    Attributes
    ----------
    inputs : dict of str to Tensor
        Traced like all other inputs.
    known : dict of str to Any
        Sizes of grids and what follows from them: they decide which products there are, and so are no part of a trace.
    tokens : int
        Tokens of each sample's text that stand for its images, at the start.
    """

    inputs: dict[str, Tensor] = field(default_factory=dict)
    known: dict[str, Any] = field(default_factory=dict)
    tokens: int = 0


def images_of(real: Any, config: ModelConfig, step: Step, takes: frozenset[str], random: Random) -> Images:
    """Images of a step in the form in which a real model takes them.

    Parameters
    ----------
    real : PreTrainedModel
        The real model.
    config : ModelConfig
        The planner's, which knows how large an image is.
    step : Step
        How many images a sample has.
    takes : frozenset of str
        Arguments of the model's `forward`.
    random : callable
        Makes the pixels.

    Raises
    ------
    UnsupportedError
        The class needs an image and the step has none, or the text is too short for its images.
    """
    if not isinstance(config, ComposedConfig) or "pixel_values" not in takes:
        return Images()
    _mend(real)
    if not isinstance(config, ImageTextConfig):
        if step.images == 0:
            raise UnsupportedError(f"{type(real).__name__} needs an image", key="images", hint="try 1")
        return Images(inputs={"pixel_values": _squares(config, int(step.batch_size * step.images), random)})
    if step.images == 0:
        return Images()
    known = {"cross_attention_mask": _sees_everything(config, step, random)} if "cross_attention_mask" in takes else {}
    if step.past > 0:
        # What the images yielded is in the cache.
        return Images(known=known)
    count, tokens = int(step.batch_size * step.images), int(step.images * config.image_tokens)
    if tokens > step.sequence_length:
        raise UnsupportedError(
            f"{step.images} images take {tokens} tokens of the text, but sequence_length is {step.sequence_length}",
            key="images",
            hint=f"ask for a sequence_length of at least {tokens}",
        )
    if "image_grid_thw" in takes:
        return _grid(real, config, step, count, tokens, random)
    if hasattr(getattr(config, "vision_config", None), "pooling_kernel_size"):
        return _pooled(config, count, tokens, random)
    if "aspect_ratio_ids" in takes:
        return _tiles(config, step, tokens, random, known)
    pixels = _squares(config, count, random)
    if "pixel_attention_mask" in takes:
        pixels = pixels.reshape(int(step.batch_size), int(step.images), *pixels.shape[1:])
    known = {}
    if any(type(module).__name__ == "PixtralVisionModel" for module in real.modules()):
        # its tower takes images of any shape, padded to the largest
        known["image_sizes"] = torch.tensor([pixels.shape[-2:]] * count, device="cpu")
    return Images(inputs={"pixel_values": pixels}, known=known, tokens=tokens)


def _mend(real: Any) -> None:
    """Llama 4 of transformers 5.24 asks the output of its decoder for images, which that does not hold."""
    if type(real).__name__ == "Llama4ForConditionalGeneration":
        from transformers import modeling_outputs

        output: Any = modeling_outputs.MoeCausalLMOutputWithPast
        if not hasattr(output, "image_outputs"):
            output.image_outputs = None


def _squares(config: Any, count: int, random: Random) -> Tensor:
    tower = config.vision_config
    return random(count, tower.num_channels, tower.image_size, tower.image_size)


def _sees_everything(config: Any, step: Step, random: Random) -> Tensor:
    """Mask under which every token sees every tile; without one, sdpa takes the images for a causal sequence."""
    sizes = (int(step.batch_size), int(step.sequence_length), int(step.images), config.vision_config.max_num_tiles)
    return torch.ones_like(random(*sizes), dtype=torch.long)


def _tiles(config: Any, step: Step, tokens: int, random: Random, known: dict[str, Any]) -> Images:
    """Every image fills all of its tiles."""
    tower, batch = config.vision_config, (int(step.batch_size), int(step.images))
    tiles = random(*batch, tower.max_num_tiles, tower.num_channels, tower.image_size, tower.image_size)
    known = known | {
        "aspect_ratio_ids": torch.ones(*batch, dtype=torch.long, device=tiles.device),
        "aspect_ratio_mask": torch.ones(*batch, tower.max_num_tiles, dtype=torch.long, device=tiles.device),
    }
    return Images(inputs={"pixel_values": tiles}, known=known, tokens=tokens)


def _pooled(config: Any, count: int, tokens: int, random: Random) -> Images:
    """Patches of images as wide as their tokens in a row, with the place of each."""
    tower, side = config.vision_config, int(config.vision_config.pooling_kernel_size)
    columns = side * int(config.image_tokens)
    pixels = random(count, side * columns, 3 * tower.patch_size**2)
    places = torch.cartesian_prod(torch.arange(columns), torch.arange(side)).to(pixels.device)
    return Images(
        inputs={"pixel_values": pixels},
        known={"image_position_ids": places.expand(count, -1, -1)},
        tokens=tokens,
    )


def _grid(real: Any, config: Any, step: Step, count: int, tokens: int, random: Random) -> Images:
    """Patches in a row, and the grid from which they come: on the CPU, since the model reads its values."""
    from transformers import vision_utils

    tower, modules = config.vision_config, list(real.modules())
    height, width = _rows_and_columns(tower)
    pixels = random(count * height * width, *_patch(tower))
    device = pixels.device
    grid = torch.tensor([[1, height, width]], device="cpu").expand(count, 3).contiguous()
    known: dict[str, Any] = {"image_grid_thw": grid}
    for module in modules:
        if type(module).__name__.endswith("VisionRotaryEmbedding"):
            module.register_forward_pre_hook(_beside_the_first)
    if any(hasattr(module, "get_rope_index") for module in modules):
        # of the text, in three directions; without them they are computed from the values of the tokens
        positions = torch.arange(int(step.sequence_length), device=device)
        known["position_ids"] = positions.expand(3, int(step.batch_size), -1)
    if hasattr(tower, "num_position_embeddings"):
        indices, weights = vision_utils.get_vision_interpolation_indices_and_weights(
            grid,
            num_grid_per_side=int(tower.num_position_embeddings**0.5),
            align_corners=True,
            spatial_merge_size=int(tower.spatial_merge_size),
        )
        known |= {"image_interp_indices": indices.to(device), "image_interp_weights": weights.to(device)}
    if device.type == "meta":
        for module in modules:
            if hasattr(module, "_deepstack_process"):
                module._deepstack_process = MethodType(_add_features, module)  # noqa: SLF001 - replaced on purpose
    return Images(inputs={"pixel_values": pixels}, known=known, tokens=tokens)


def _rows_and_columns(tower: Any) -> tuple[int, int]:
    """Patches of an image: as many as the table of positions has, or those of a square."""
    if hasattr(tower, "pos_emb_height"):
        return int(tower.pos_emb_height), int(tower.pos_emb_width)
    side = round(tower.num_patches**0.5)
    return side, side


def _patch(tower: Any) -> tuple[int, ...]:
    """Shape of one patch: flat where frames are merged into it, and else a small image of three colours."""
    if not hasattr(tower, "temporal_patch_size"):
        return 3, tower.patch_size, tower.patch_size
    channels = tower.in_channels if hasattr(tower, "in_channels") else tower.num_channels
    return (channels * tower.temporal_patch_size * tower.patch_size**2,)


def _beside_the_first(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Inputs on the device of the first: positions that were made of the grid are where the grid is."""
    del module
    return tuple(tensor.to(inputs[0].device) for tensor in inputs)


def _add_features(self: Any, hidden_states: Tensor, visual_pos_masks: Tensor, visual_embeds: Tensor) -> Tensor:
    """Qwen3-VL's own sum of features and the tokens of images, in a form whose shapes no value decides."""
    del self
    spread = torch.zeros_like(hidden_states).masked_scatter(visual_pos_masks[..., None], visual_embeds)
    return hidden_states + spread

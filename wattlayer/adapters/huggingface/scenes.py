"""Images and clips of model types that no rule by name serves; see `by_type`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..source import DEFAULT_IMAGE_SIZE
from .specimen import Inputs, Specimen, known

FRAMES = 8
"""Frames of a clip where the configuration does not say: what TimeSformer and X-CLIP default to."""

REGIONS = 36
"""Detected regions of an image (Anderson et al. 2018, section 3.1; LXMERT, section 3)."""

# --- video and several images


def clip(x: Specimen, name: str = "pixel_values") -> Inputs:
    """Return the frames of one clip [batch, frames, 3, height, width] under `name`."""
    vision = getattr(x.config, "vision_config", None) or x.config
    frames = getattr(vision, "num_frames", None) or getattr(vision, "frames_per_clip", None) or FRAMES
    return {name: x.image(frames, edge=_edge(x, vision))}


def _edge(x: Specimen, vision: Any) -> int:
    """Return the edge of an image that a configuration names, else the one that timm built its network for."""
    stated = (getattr(vision, key, None) for key in ("image_size", "crop_size", "max_img_size"))
    sizes: list[Any] = [getattr(m, "img_size", None) for m in x.module.modules()]
    built = (size[-1] for size in sizes if isinstance(size, tuple))
    return next((n for n in stated if n), None) or next(built, DEFAULT_IMAGE_SIZE)


def _clip_apart(x: Specimen) -> Inputs:
    return clip(x, "pixel_values_videos")


def _clip_and_text(x: Specimen) -> Inputs:
    return clip(x) | {"input_ids": x.ids(x.text_length)}


def _pair(x: Specimen) -> Inputs:
    """Two images whose points are matched."""
    return {"pixel_values": x.image(2, edge=480)}


def _interleaved(x: Specimen) -> Inputs:
    """Text that may look at one image."""
    length = x.length
    return {
        "input_ids": x.ids(length),
        "pixel_values": x.image(1, edge=x.config.vision_config.image_size),
        "image_attention_mask": x.ones(x.batch, length, 1),
    }


# --- images in patches


def _patches(x: Specimen) -> Inputs:
    """Patches as rows [patches, values of one] with the grid that they form."""
    c = x.config
    merge = getattr(c, "merge_size", None) or getattr(c, "spatial_merge_size", None) or 1
    side, depth = x.side(c.patch_size, merge), getattr(c, "patch_temporal", 1)
    return {"pixel_values": x.floats(x.batch * side**2, depth * 3 * c.patch_size**2), "grid_thw": _grid(x, side)}


def _grid(x: Specimen, side: int) -> Any:
    return x.numbers([[1, side, side]] * x.batch)


def _square_patches(x: Specimen) -> Inputs:
    """Patches as small images [patches, 3, height, width]."""
    patch = x.config.patch_size
    side = x.side(patch, x.config.merge_kernel_size[0])
    return {"pixel_values": x.floats(x.batch * side**2, 3, patch, patch), "grid_thw": _grid(x, side)}


def _token_patches(x: Specimen) -> Inputs:
    """One square of pixels for each token [tokens, height, width, 3]."""
    edge = x.config.patch_size * x.config.spatial_merge_size
    side = x.side(edge)
    return {"pixel_values": x.floats(x.batch * side**2, edge, edge, 3), "image_grid_thw": _grid(x, side)}


def _placed_patches(x: Specimen) -> Inputs:
    """Patches [batch, patches, values of one] with the column and row of each."""
    patch = x.config.patch_size
    side = x.side(patch, x.config.pooling_kernel_size)
    places = [[column, row] for row in range(side) for column in range(side)]
    return {
        "pixel_values": x.floats(x.batch, side**2, 3 * patch**2),
        "pixel_position_ids": x.numbers([places] * x.batch),
    }


def _patch_row(x: Specimen) -> Inputs:
    """All patches of an image in one row of pixels [batch, 3, patch, patches · patch], as MiniCPM-V packs them."""
    patch = x.config.patch_size
    side = x.side(patch, 4)
    return {"pixel_values": x.floats(x.batch, 3, patch, side**2 * patch), "target_sizes": x.numbers([[side, side]] * x.batch)}


def _masked_patches(x: Specimen) -> Inputs:
    """A fixed number of patches [batch, patches, values of one], all of them of the image."""
    vision = getattr(x.config, "vision_config", None) or x.config
    side = x.side(vision.patch_size, default=int(vision.num_patches**0.5) * vision.patch_size)
    return {
        "pixel_values": x.floats(x.batch, side**2, 3 * vision.patch_size**2),
        "pixel_attention_mask": x.ones(x.batch, side**2),
        "spatial_shapes": x.numbers([[side, side]] * x.batch),
    }


def _masked_patches_and_text(x: Specimen) -> Inputs:
    return _masked_patches(x) | {"input_ids": x.ids(x.text_length)}


def _merged_patches(x: Specimen) -> Inputs:
    return _patches(x) | {"merge_sizes": x.numbers([1] * x.batch)}


# --- images and what comes with them


def _image(edge: int | None = None) -> Callable[[Specimen], Inputs]:
    return lambda x: {"pixel_values": x.image(edge=edge or x.config.image_size)}


def _pyramid(x: Specimen) -> Inputs:
    """An image whose smallest scale is still a patch of Depth Pro."""
    return {"pixel_values": x.image(edge=int(x.config.patch_size / min(x.config.scaled_images_ratios)))}


def _of_backbone(x: Specimen) -> Inputs:
    """An image that divides into the backbone's windows: the next larger of its size."""
    backbone = x.config.backbone_config
    window = backbone.patch_size * backbone.num_windows
    return {"pixel_values": x.image(edge=-(-backbone.image_size // window) * window)}


def _in_context(x: Specimen) -> Inputs:
    """An image, and an example of an image with its mask."""
    height, width = x.config.image_size
    shapes = {key: x.floats(x.batch, 3, height // 2, width) for key in ("pixel_values", "prompt_pixel_values", "prompt_masks")}
    return shapes


def _task(x: Specimen) -> Inputs:
    return {"pixel_values": x.image(edge=512), "task_inputs": x.ids(x.config.task_seq_len)}


def _instructed(x: Specimen) -> Inputs:
    """A question that the Q-Former reads beside the image, which becomes tokens of the text."""
    return _with_queries(x) | {"qformer_input_ids": x.ids(x.length)}


def _instructed_clip(x: Specimen) -> Inputs:
    frames = 4  # of InstructBLIP's video processor in its documentation
    images = {"pixel_values": x.image(frames, edge=x.config.vision_config.image_size)}
    return images | {"input_ids": _placeholders(x, "video_token_index", frames), "qformer_input_ids": x.ids(x.length)}


def _with_queries(x: Specimen) -> Inputs:
    image = {"pixel_values": x.image(edge=x.config.vision_config.image_size)}
    return image | {"input_ids": _placeholders(x, "image_token_index")}


def _placeholders(x: Specimen, key: str, images: int = 1) -> Any:
    """Return text after the places of the queries' answers; a configuration that names no token for them gets the last."""
    import torch

    if getattr(x.config, key) is None:
        setattr(x.config, key, x.config.text_config.vocab_size - 1)
    places = torch.full((x.batch, images * x.config.num_query_tokens), getattr(x.config, key))
    return known(torch.cat([places, torch.full((x.batch, x.length), 3)], dim=1))


def _questions(x: Specimen) -> Inputs:
    """Two classes to look for and the sentence that asks for them."""
    words, asked = x.text_length, 2 * x.batch
    return {
        "pixel_values": x.image(edge=x.config.image_size),
        "classes_input_ids": x.full(3, asked, words),
        "classes_attention_mask": x.ones(asked, words),
        "tasks_input_ids": x.full(3, x.batch, words),
        "tasks_attention_mask": x.ones(x.batch, words),
        "classes_structure": x.full(2, x.batch),
    }


def _robot(x: Specimen) -> Inputs:
    """One camera's image and an instruction, and one denoising step of a chunk of actions after the robot's state."""
    vlm, chunk = x.config.vlm_config, x.config.chunk_size
    image = [vlm.image_token_id] * (vlm.vision_config.image_size // vlm.vision_config.patch_size) ** 2
    return {
        "action_embeds": x.floats(x.batch, 1 + chunk, x.config.dit_config.hidden_size),
        "pixel_values": x.image(1, edge=vlm.vision_config.image_size),
        "pixel_attention_mask": x.full(1, x.batch, 1, dtype="bool"),
        "input_ids": x.numbers([image + [3] * x.length] * x.batch),
        "attention_mask": x.ones(x.batch, len(image) + x.length),
    }


def _pooled_crop(x: Specimen) -> Inputs:
    """One crop in patches, pooled by squares of four into the tokens that stand in the text."""
    vision = x.config.vision_config
    side = vision.image_size[0] // vision.patch_size
    rows = range(0, side, 2)
    pools = [
        [(r + i) * side + c + k if max(r + i, c + k) < side else -1 for i in (0, 1) for k in (0, 1)] for r in rows for c in rows
    ]
    tokens = [x.config.image_patch_id] * len(pools)
    return {
        "input_ids": x.numbers([tokens + [3] * x.length] * x.batch),
        "pixel_values": x.floats(x.batch, side**2, 3 * vision.patch_size**2),
        "image_token_pooling": x.numbers(pools * x.batch),
        "image_grids": x.numbers([[len(rows), len(rows), 0, 0]] * x.batch),
    }


def _grounded(x: Specimen) -> Inputs:
    """Text that begins with the places of the image's latents."""
    latents = x.config.latent_query_num
    return {
        "pixel_values": x.image(edge=x.config.vision_config.image_size),
        "input_ids": x.ids(latents + x.length),
        "image_embeds_position_mask": x.numbers([[1] * latents + [0] * x.length] * x.batch),
    }


def _regions(x: Specimen) -> Inputs:
    return {
        "input_ids": x.ids(x.length),
        "visual_feats": x.floats(x.batch, REGIONS, x.config.visual_feat_dim),
        "visual_pos": x.floats(x.batch, REGIONS, x.config.visual_pos_dim),
    }


def _queries(x: Specimen) -> Inputs:
    """A Q-Former's queries and the 257 tokens of a ViT-g/14 at 224 pixels that they look at (BLIP-2, section 3.1)."""
    return {
        "query_embeds": x.floats(x.batch, 32, x.config.hidden_size),
        "encoder_hidden_states": x.floats(x.batch, 257, x.config.encoder_hidden_size),
    }


SCENES: dict[str, Callable[[Specimen], Inputs]] = {
    **dict.fromkeys(("timesformer", "videomae", "vivit"), clip),
    **dict.fromkeys(("vjepa2", "videoprism_vision_model", "pe_video_encoder"), _clip_apart),
    **dict.fromkeys(("xclip", "tvp"), _clip_and_text),
    **dict.fromkeys(("videoprism", "pe_video"), lambda x: _clip_apart(x) | {"input_ids": x.ids(x.text_length)}),
    **dict.fromkeys(("efficientloftr", "lightglue"), _pair),
    "idefics": _interleaved,
    **dict.fromkeys(("muse_spark_vision", "muse_glimmer_vision"), _patches),
    "kimi_k25_vision": _square_patches,
    "inkling2_vision": _token_patches,
    "gemma4_vision": _placed_patches,
    **dict.fromkeys(("minicpm_ocr_vision", "minicpmv4_7_vision"), _patch_row),
    "siglip2_vision_model": _masked_patches,
    "siglip2": _masked_patches_and_text,
    "video_llama_3_vision": _merged_patches,
    **dict.fromkeys(("granite_docling_vision", "idefics3_vision", "smolvlm_vision"), _image()),
    **dict.fromkeys(("sam2", "edgetam", "edgetam_vision_model"), _image(1024)),
    **dict.fromkeys(("lw_detr", "rf_detr"), _of_backbone),
    "depth_pro": _pyramid,
    "seggpt": _in_context,
    "oneformer": _task,
    "blip-2": _with_queries,
    "instructblip": _instructed,
    "instructblipvideo": _instructed_clip,
    "kosmos-2": _grounded,
    "omdet-turbo": _questions,
    "pi0": _robot,
    "molmo2": _pooled_crop,
    "lxmert": _regions,
    "blip_2_qformer": _queries,
}
"""By `model_type`."""

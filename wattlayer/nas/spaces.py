"""Ready-made search spaces: NAS-Bench-201, a once-for-all MobileNetV3 and a vision transformer."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from ..errors import InputError, check_whole
from .parts import (
    AttentionBlock,
    CellEdge,
    CellNode,
    CellReduction,
    CellTail,
    ConvNorm,
    MobileBlock,
    MobileTail,
    Patches,
    TokenTail,
)  # fmt: skip
from .space import Genome, Part, Placed, Slot, Space

if TYPE_CHECKING:
    from torch import nn

NAS_BENCH_201_OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
"""What an edge may be, in the order of the benchmark's own code (Dong and Yang, ICLR 2020)."""

OFA_STAGES = (
    (24, 2, "relu", False), (40, 2, "relu", True), (80, 2, "hswish", False), (112, 1, "hswish", True), (160, 2, "hswish", True),
)  # fmt: skip
"""Width, stride, activation and squeeze-and-excite of the elastic stages: MobileNetV3-Large (Howard et al., ICCV 2019)."""

OFA_DEPTHS, OFA_KERNELS, OFA_EXPANSIONS = (2, 3, 4), (3, 5, 7), (3, 4, 6)
"""What is elastic in a stage and in a block (Cai et al., Once-for-All, ICLR 2020, section 4)."""


def nas_bench_201(cells: int = 5, channels: int = 16, size: int = 32, classes: int = 10) -> Space:
    """Return NAS-Bench-201: position i is the operation (0 to 4) of edge i in three stages of `cells` equal cells.

    Edges come node by node: (0→1), (0→2), (1→2), (0→3), (1→3), (2→3). The defaults are the benchmark's on CIFAR-10.
    Raises InputError for sizes that are no whole numbers of at least 1 and for a `size` that is no multiple of 4.
    """
    for name, value in (("cells", cells), ("channels", channels), ("classes", classes)):
        check_whole(name, value)
    _multiples([size], 4)  # halved twice
    slots = [_fixed("stem", ConvNorm(3, channels, size))]
    for stage in range(3):
        width, edge = channels << stage, size >> stage
        if stage:
            slots.append(_fixed(f"reduction{stage}", CellReduction(width // 2, 2 * edge)))
        for cell in range(cells):
            slots += _cell_slots(f"stage{stage}_cell{cell}", width, edge)
    slots.append(_fixed("head", CellTail(4 * channels, classes, size // 4)))
    return Space(
        f"nas-bench-201({cells}x{channels})", (len(NAS_BENCH_201_OPERATIONS),) * 6, tuple(slots),
        partial(_cell_network, cells, channels, size, classes), partial(_image, size),
        ("0→1", "0→2", "1→2", "0→3", "1→3", "2→3"),
    )  # fmt: skip


def _cell_slots(name: str, channels: int, size: int) -> list[Slot]:
    slots, edge = [], 0
    for node in (1, 2, 3):
        for _ in range(node):
            slots.append(Slot((edge,), partial(_edge, f"{name}.edges.{edge}", channels, size)))
            edge += 1
        slots.append(_fixed(f"{name}.totals.{node - 1}", CellNode(node, channels, size)))
    return slots


def _edge(path: str, channels: int, size: int, operation: int) -> list[Placed]:
    return [(path, CellEdge(NAS_BENCH_201_OPERATIONS[operation], channels, size))]


def _cell_network(cells: int, channels: int, size: int, classes: int, genome: Genome) -> nn.Module:
    from torch import nn

    from .modules import Cell

    operations = [NAS_BENCH_201_OPERATIONS[i] for i in genome]
    parts: OrderedDict[str, nn.Module] = OrderedDict(stem=ConvNorm(3, channels, size).build())
    for stage in range(3):
        if stage:
            parts[f"reduction{stage}"] = CellReduction(channels << stage - 1, size >> stage - 1).build()
        for cell in range(cells):
            parts[f"stage{stage}_cell{cell}"] = Cell(operations, channels << stage)
    parts["head"] = CellTail(4 * channels, classes, size // 4).build()
    return nn.Sequential(parts)


def once_for_all(resolutions: Iterable[int] = (160, 192, 224), classes: int = 1000) -> Space:
    """Return a once-for-all MobileNetV3: resolution, then five depths, then kernel and expansion of 5 x 4 blocks.

    Depth 2 to 4, kernel 3, 5 or 7, expansion 3, 4 or 6; blocks beyond a stage's depth are left out, so that several
    genomes may describe one network. Raises InputError for `resolutions` that are no multiples of 32 and for `classes` below 1.
    """
    check_whole("classes", classes)
    stages, sizes = len(OFA_STAGES), _sizes("resolutions", resolutions)
    _multiples(sizes, 32)
    slots = [
        Slot((0,), partial(_mobile_stem, sizes)),
        *(
            Slot(
                (0, 1 + stage, 6 + 2 * (4 * stage + place), 7 + 2 * (4 * stage + place)),
                partial(_mobile_block, sizes, stage, place),
            )
            for stage in range(stages)
            for place in range(max(OFA_DEPTHS))
        ),
        Slot((0,), partial(_mobile_tail, sizes, classes)),
    ]
    blocks = stages * max(OFA_DEPTHS)
    labels = ["resolution", *(f"depth{i}" for i in range(stages))]
    labels += [f"{what}{i // 4}_{i % 4}" for i in range(blocks) for what in ("kernel", "expansion")]
    choices = (len(sizes), *(len(OFA_DEPTHS),) * stages, *(len(OFA_KERNELS), len(OFA_EXPANSIONS)) * blocks)
    return _chain("once-for-all", choices, slots, sizes, labels)


def _elastic(stage: int, place: int) -> tuple[int, int]:
    """Genome positions of a block's kernel and expansion."""
    first = 1 + len(OFA_STAGES) + 2 * (max(OFA_DEPTHS) * stage + place)
    return first, first + 1


def _mobile_stem(sizes: tuple[int, ...], resolution: int) -> list[Placed]:
    size = sizes[resolution]
    first = MobileBlock(16, 16, 16, 3, 1, "relu", None, size // 2)
    return [("stem", ConvNorm(3, 16, size, 2, "hswish")), ("first", first)]


def _mobile_block(
    sizes: tuple[int, ...], stage: int, place: int, resolution: int, depth: int, kernel: int, expansion: int
) -> list[Placed]:
    if place >= OFA_DEPTHS[depth]:
        return []
    width, stride, act, gated = OFA_STAGES[stage]
    before = sizes[resolution] // 2
    for _, step, _, _ in OFA_STAGES[: stage + (place > 0)]:
        before //= step
    inputs = width if place else (16, *(x[0] for x in OFA_STAGES))[stage]
    hidden = inputs * OFA_EXPANSIONS[expansion]
    squeezed = _divisible(hidden / 4) if gated else None
    block = MobileBlock(inputs, width, hidden, OFA_KERNELS[kernel], 1 if place else stride, act, squeezed, before)
    return [(f"stage{stage}_block{place}", block)]


def _mobile_tail(sizes: tuple[int, ...], classes: int, resolution: int) -> list[Placed]:
    return [("head", MobileTail(OFA_STAGES[-1][0], 960, 1280, classes, sizes[resolution] // 32))]


def _divisible(channels: float, by: int = 8) -> int:
    """Round to a multiple of `by`, never below 90 % (Howard et al.'s rule for channels)."""
    rounded = max(by, int(channels + by / 2) // by * by)
    return rounded + by if rounded < 0.9 * channels else rounded


def vision_transformer(
    depths: Iterable[int] = (8, 10, 12, 14),
    widths: Iterable[int] = (192, 256, 320, 384),
    heads: Iterable[int] = (3, 4, 6),
    mlp_ratios: Iterable[int] = (2, 3, 4),
    size: int = 224,
    patch: int = 16,
    classes: int = 1000,
) -> Space:
    """Return a vision transformer: depth, width, then heads and MLP ratio of every block; heads are 64 wide.

    Blocks beyond the depth are left out (after AutoFormer: Chen et al., ICCV 2021). Raises InputError for a `size` that is no
    multiple of `patch`, for other sizes that are no whole numbers of at least 1 and where there is nothing to choose from.
    """
    for name, value in (("patch", patch), ("classes", classes)):
        check_whole(name, value)
    _multiples([size], patch)
    tokens = (size // patch) ** 2 + 1
    names = ("depths", "widths", "heads", "mlp_ratios")
    depths, widths, heads, mlp_ratios = options = tuple(map(_sizes, names, (depths, widths, heads, mlp_ratios)))
    slots = [
        Slot((1,), partial(_patches, options[1], patch, size)),
        *(Slot((0, 1, 2 + 2 * i, 3 + 2 * i), partial(_attention_block, options, tokens, i)) for i in range(max(depths))),
        Slot((1,), partial(_token_tail, options[1], classes, tokens)),
    ]
    labels = ["depth", "width", *(f"{what}{i}" for i in range(max(depths)) for what in ("heads", "mlp_ratio"))]
    choices = (len(depths), len(widths), *(len(heads), len(mlp_ratios)) * max(depths))
    return _chain("vision-transformer", choices, slots, (size,), labels)


def _patches(widths: tuple[int, ...], patch: int, size: int, width: int) -> list[Placed]:
    return [("patches", Patches(widths[width], patch, size))]


def _attention_block(
    options: tuple[tuple[int, ...], ...], tokens: int, place: int, depth: int, width: int, heads: int, ratio: int
) -> list[Placed]:
    depths, widths, head_counts, ratios = options
    if place >= depths[depth]:
        return []
    block = AttentionBlock(widths[width], head_counts[heads], 64, widths[width] * ratios[ratio], tokens)
    return [(f"block{place}", block)]


def _token_tail(widths: tuple[int, ...], classes: int, tokens: int, width: int) -> list[Placed]:
    return [("head", TokenTail(widths[width], classes, tokens))]


def _fixed(path: str, part: Part) -> Slot:
    return Slot((), partial(_same, [(path, part)]))


def _same(parts: list[Placed]) -> list[Placed]:
    return parts


def _image(size: int, _: Genome) -> tuple[tuple[int, ...], ...]:
    return ((3, size, size),)


def _image_by_resolution(sizes: tuple[int, ...], genome: Genome) -> tuple[tuple[int, ...], ...]:
    return _image(sizes[genome[0]] if len(sizes) > 1 else sizes[0], genome)


def _chain(name: str, choices: tuple[int, ...], slots: list[Slot], sizes: tuple[int, ...], labels: list[str]) -> Space:
    """A space whose parts run one after another; `sizes` are those that position 0 chooses among, or the only one."""
    return Space(name, choices, tuple(slots), partial(_sequence, slots), partial(_image_by_resolution, sizes), tuple(labels))


def _sequence(slots: list[Slot], genome: Genome) -> nn.Module:
    from torch import nn

    placed = [x for slot in slots for x in slot.parts(*(genome[i] for i in slot.positions))]
    return nn.Sequential(OrderedDict((path, part.build()) for path, part in placed))


def _sizes(name: str, values: Iterable[int]) -> tuple[int, ...]:
    """Return sizes to choose among; raise InputError for none and for what are no whole numbers of at least 1."""
    try:
        sizes = tuple(values)
    except TypeError:
        raise InputError(f"{name} are whole numbers to choose among, not {values!r}") from None
    if not sizes:
        raise InputError(f"{name} are empty: give at least one")
    for size in sizes:
        check_whole(name, size)
    return tuple(int(size) for size in sizes)


def _multiples(sizes: Sequence[int], of: int) -> None:
    for size in sizes:
        check_whole("image size", size)
        if size < of or size % of:
            raise InputError(f"image size {size} is not a multiple of {of}")

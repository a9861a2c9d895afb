"""The SelaVPR network: a frozen DINOv2 ViT, adapters in every block, two kinds of features.

Everything of the method that is a layer is in this file (Lu et al., "Towards Seamless Adaptation
of Pre-trained Models for Visual Place Recognition", ICLR 2024, section 3).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.func import functional_call

from selavpr import images, official, replay, weights
from selavpr.errors import OptionError
from selavpr.folding import Folded, FoldedBlock
from selavpr.shapes import adapter_width, trained_shapes
from selavpr.structs import PATCH, Features, ModelConfig

TRAINED_GRID = 37
"""DINOv2's position embedding was trained on 37 x 37 patches (518 pixels)."""

Precision = Literal["auto", "float32", "bfloat16", "float16"]


class Adapter(nn.Module):
    """Bottleneck: Linear(C, C/2), ReLU, Linear(C/2, C) (paper, figure 2; ratio 0.5)."""

    def __init__(self, width: int) -> None:
        """C -> C/2 -> C channels."""
        super().__init__()
        narrow = adapter_width(width)
        self.down = nn.Linear(width, narrow)
        self.up = nn.Linear(narrow, width)
        self.start_as_zero()

    def start_as_zero(self) -> None:
        """Become the zero function, so that an untrained network is the plain backbone."""
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., C]`` to ``[..., C]``; no skip connection inside."""
        return self.up(F.relu(self.down(x)))  # type: ignore[no-any-return]


class AdaptedBlock(Block):  # type: ignore[misc]
    """A ViT block with a serial adapter after attention and a parallel one beside the MLP.

    x = x + ls1(a + A1(a)),            a = attn(norm1(x))     (paper, eq. 4)
    x = x + ls2(mlp(n) + s * A2(n)),   n = norm2(x)           (paper, eq. 5)
    """

    def __init__(self, dim: int, *args: Any, **kwargs: Any) -> None:
        """Take timm's arguments as they are: this is its ``block_fn``."""
        super().__init__(dim, *args, **kwargs)
        self.attn_adapter = Adapter(dim)
        self.mlp_adapter = Adapter(dim)
        self.adapter_scale = 0.2

    def forward(self, x: Tensor, adapted: bool = True) -> Tensor:
        """``[B, N, C]`` to ``[B, N, C]``; ``adapted=False`` runs the frozen block alone."""
        attended = self.attn(self.norm1(x))
        if adapted:
            attended = attended + self.attn_adapter(attended)
        x = x + self.ls1(attended)
        normed = self.norm2(x)
        out = self.mlp(normed)
        if adapted:
            out = out + self.adapter_scale * self.mlp_adapter(normed)
        return x + self.ls2(out)  # type: ignore[no-any-return]


class GeM(nn.Module):
    """Generalised-mean pooling of L2-normalised tokens, with a learnt power p (starts at 3)."""

    def __init__(self) -> None:
        """Create p, the only parameter."""
        super().__init__()
        self.p = nn.Parameter(torch.full((1,), 3.0))

    def forward(self, tokens: Tensor) -> Tensor:
        """``[B, h, w, C]`` to ``[B, C]`` of unit L2 norm."""
        unit = F.normalize(tokens, dim=-1)
        pooled = unit.clamp(min=1e-6).pow(self.p).mean(dim=(1, 2)).pow(1 / self.p)
        return F.normalize(pooled, dim=-1)


class LocalHead(nn.Module):
    """Two up-convolutions that turn h x w tokens into (4h-3) x (4w-3) local descriptors."""

    def __init__(self, width: int, hidden: int, dim: int) -> None:
        """C -> hidden -> dim channels, each 3 x 3 with stride 2 and padding 1."""
        super().__init__()
        self.up1 = nn.ConvTranspose2d(width, hidden, 3, stride=2, padding=1)
        self.up2 = nn.ConvTranspose2d(hidden, dim, 3, stride=2, padding=1)

    def forward(self, tokens: Tensor) -> Tensor:
        """``[B, h, w, C]`` to ``[B, 4h-3, 4w-3, dim]`` of unit L2 norm."""
        dense = self.up2(F.relu(self.up1(tokens.permute(0, 3, 1, 2))))
        return F.normalize(dense.permute(0, 2, 3, 1).float(), dim=-1)

    def project(self, tokens: Tensor) -> Tensor:
        """``[..., C]`` to ``[..., dim]``: rows and columns 0, 4, 8, ... of ``forward``.

        With stride 2 and padding 1 only the middle of a kernel reaches these cells, in both
        up-convolutions: two small matrix products instead of the whole grid.
        """
        for i, up in enumerate((self.up1, self.up2)):
            tokens = F.relu(tokens) if i else tokens
            tokens = F.linear(tokens, up.weight[:, :, 1, 1].T, up.bias)
        return F.normalize(tokens.float(), dim=-1)

    @torch.no_grad()
    def start_as_projection(self, mean: Tensor, projection: Tensor) -> None:
        """Set the weights so that the head projects centred tokens and upsamples them bilinearly.

        A far better start than random weights: matching works before any training. The hidden
        channels carry the projection and its negative, so that the ReLU between loses nothing:
        relu(p) - relu(-p) = p. The kernel (1, 2, 1)/2 in both directions is the bilinear one.

        Args:
            mean: ``[C]``, subtracted from every token.
            projection: ``[dim, C]``, for example the leading principal components.

        Raises:
            OptionError: there are fewer than twice ``dim`` hidden channels.
        """
        dim = projection.shape[0]
        if self.up1.out_channels < 2 * dim or self.up2.out_channels != dim:
            raise OptionError("A projection start needs local_hidden to be twice local_dim.")
        line = torch.tensor([0.5, 1.0, 0.5])
        kernel = line[:, None] * line
        for module in (self.up1, self.up2):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        both = torch.cat([projection, -projection])
        self.up1.weight[:, : 2 * dim] = both.T[:, :, None, None] * kernel
        self.up1.bias[: 2 * dim] = -both @ mean  # type: ignore[index]
        channel = torch.arange(dim)
        self.up2.weight[channel, channel] = kernel
        self.up2.weight[channel + dim, channel] = -kernel


class SelaVPR(nn.Module):
    """The network. Only adapters, local head and GeM's p train; the ViT stays as it was.

    ``SelaVPR(config)`` has random weights; ``SelaVPR.from_pretrained()`` has useful ones.
    """

    def __init__(self, config: ModelConfig) -> None:
        """Build the network on the CPU, in float32, in training mode."""
        super().__init__()
        self.config = config
        self.precision: torch.dtype = torch.float32
        self.card: dict[str, Any] = {}
        self.backbone_repo: str | None = None
        self._replays = replay.Replays()
        self.backbone = VisionTransformer(
            img_size=TRAINED_GRID * PATCH,
            patch_size=PATCH,
            embed_dim=config.width,
            depth=config.depth,
            num_heads=config.heads,
            init_values=1e-5,
            reg_tokens=config.registers,
            no_embed_class=config.registers > 0,
            num_classes=0,
            global_pool="",
            dynamic_img_size=True,
            block_fn=AdaptedBlock,
        )
        for block in self.backbone.blocks:
            block.adapter_scale = float(config.adapter_scale)
            # timm gives every Linear inside a ViT random weights, the adapters' included.
            block.attn_adapter.start_as_zero()
            block.mlp_adapter.start_as_zero()
        self.pool = GeM()
        self.local_head = LocalHead(config.width, config.local_hidden, config.local_dim)
        for name, parameter in self.backbone.named_parameters():
            parameter.requires_grad = "_adapter." in name

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str] = weights.DEFAULT_MODEL,
        *,
        device: str | torch.device = "auto",
        precision: Precision = "auto",
        backbone: str | os.PathLike[str] | None = None,
    ) -> SelaVPR:
        """Load a trained model, ready for inference.

        Args:
            name: a bundled model, a folder, or a Hub repository ``org/name[@revision]``.
            device: ``"auto"`` takes a GPU where there is one.
            precision: of the arithmetic. ``"auto"`` is bfloat16 (or float16) on GPUs, bfloat16 on
                CPUs built for it, else float32; ``"float32"`` is exact.
            backbone: safetensors file to use instead of the backbone the model names.

        Raises:
            WeightsError: no such model, damaged files, tensors that do not fit, wrong backbone.
            HubError: something could not be fetched.
            OptionError: an unknown device or precision.
        """
        return cls.from_weights(weights.load(name, backbone), device=device, precision=precision)

    @classmethod
    def from_official_checkpoint(
        cls,
        path: str | os.PathLike[str],
        *,
        device: str | torch.device = "auto",
        precision: Precision = "auto",
    ) -> SelaVPR:
        """Load a .pth file of the reference implementation; see ``official.load_official``."""
        return cls.from_weights(official.load_official(path), device=device, precision=precision)

    @classmethod
    def from_weights(
        cls,
        source: weights.Weights,
        *,
        device: str | torch.device = "auto",
        precision: Precision = "auto",
    ) -> SelaVPR:
        """Build the network around loaded tensors, strictly; see ``from_pretrained``."""
        model = cls(source.config)
        frozen = weights.cut(source.backbone, source.config.depth)
        state = {name: x for name, x in model.state_dict().items()}
        trained = {name: state[name] for name in trained_shapes(source.config)}
        expected = {
            name.removeprefix("backbone."): x for name, x in state.items() if name not in trained
        }
        weights.check_names(trained, source.trained, "adapters")
        weights.check_names(expected, frozen, "backbone's tensors")
        full = {**source.trained, **{f"backbone.{name}": x for name, x in frozen.items()}}
        model.load_state_dict(full, strict=True)
        model.card = source.card
        model.backbone_repo = source.backbone_repo
        return model.eval().place(device, precision)

    def place(self, device: str | torch.device = "auto", precision: Precision = "auto") -> SelaVPR:
        """Move to a device and choose the precision of ``extract``.

        Raises:
            OptionError: an unknown device or precision, or a device this machine lacks.
        """
        chosen = _device(device)
        self.precision = _precision(precision, chosen)
        if chosen.type == "cuda" and self.precision == torch.float32:
            # Convolutions round to ten bits unless told not to, for all of the process.
            torch.backends.cudnn.allow_tf32 = False
        return self.to(chosen)

    def _apply(self, *args: Any, **kwargs: Any) -> SelaVPR:
        """Whatever moves or casts the weights: recordings would go on reading the old ones."""
        self._replays = replay.Replays()
        return super()._apply(*args, **kwargs)  # type: ignore[no-any-return, no-untyped-call]

    def to_weights(self) -> weights.Weights:
        """The tensors and the card, as ``weights.save`` takes them."""
        state = {name: x.detach().cpu() for name, x in self.state_dict().items()}
        # By name: a run that leaves the local head alone has it all the same.
        trained = trained_shapes(self.config)
        return weights.Weights(
            self.config,
            {name: state[name] for name in trained},
            {n.removeprefix("backbone."): x for n, x in state.items() if n not in trained},
            self.card,
            self.backbone_repo,
        )

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.pool.p.device

    def fingerprint(self) -> str:
        """SHA-256 over every tensor and setting that decides what is made of a reference photo."""
        source = self.to_weights()
        frozen = weights.fingerprint(source.backbone, self.config.depth)
        trained = weights.fingerprint(source.trained, self.config.depth)
        shape = dataclasses.asdict(self.config)
        if shape["scoring"] == "count":  # as all models did before there was a choice
            del shape["scoring"]
        for name in self.config.asking:  # an index is none the worse for other ways to ask it
            del shape[name]
        return weights.digest([frozen, trained, shape])

    def forward(
        self,
        pixel_values: Tensor,
        *,
        local: bool = False,
        adapted: bool = True,
        folded: Sequence[FoldedBlock] = (),
    ) -> Features:
        """Compute the features of a batch.

        Args:
            pixel_values: ``[B, 3, H, W]`` normalised as ``images.preprocess`` does; H and W are
                multiples of 14.
            local: also compute the local descriptors.
            adapted: False leaves the adapters out: the plain backbone, for comparison.
            folded: stand in for the adapted blocks; for inference alone.

        Returns:
            ``descriptor [B, C]``, ``tokens [B, H/14, W/14, C]`` and, where asked for,
            ``local [B, 4h-3, 4w-3, local_dim]``; all float32.

        Raises:
            OptionError: the shape is not as above.
        """
        shape = tuple(pixel_values.shape)
        if len(shape) != 4 or shape[1] != 3 or shape[2] % PATCH or shape[3] % PATCH or 0 in shape:
            raise OptionError(
                f"pixel_values must be [B, 3, H, W] with H and W multiples of {PATCH}, "
                f"not {list(shape)}."
            )
        h, w = shape[2] // PATCH, shape[3] // PATCH
        x = self._embed(self.backbone.patch_embed(pixel_values).flatten(1, 2), h, w)
        if folded and adapted:
            x = x.float()
            for block in folded:
                x = block(x)
        else:
            for block in self.backbone.blocks:
                x = block(x, adapted)
        x = self.backbone.norm(x)[:, 1 + self.config.registers :].float()
        tokens = x.reshape(-1, h, w, self.config.width)
        with torch.autocast(pixel_values.device.type, enabled=False):
            # Powers and norms lose too much in half precision.
            descriptor = self.pool(tokens)
        return Features(descriptor, tokens, self.densify(tokens) if local else None)

    def densify(self, tokens: Tensor) -> Tensor:
        """Local descriptors from tokens.

        Args:
            tokens: ``[B, h, w, C]``.

        Returns:
            ``[B, 4h-3, 4w-3, local_dim]`` float32, unit L2 norm.
        """
        return self.local_head(tokens)  # type: ignore[no-any-return]

    def project(self, tokens: Tensor) -> Tensor:
        """Local descriptors at the centres of the tokens alone: every fourth of ``densify``.

        Args:
            tokens: ``[..., C]``.

        Returns:
            ``[..., local_dim]`` float32, unit L2 norm.
        """
        return self.local_head.project(tokens)

    def extract(
        self,
        photos: Sequence[images.PhotoSource] | images.PhotoSource,
        *,
        local: bool = False,
        adapted: bool = True,
        batch_size: int = 8,
    ) -> Features:
        """Features of photos, from preprocessing to the CPU-side result, in one call.

        Args:
            photos: one or more photos, anything ``images.load_image`` opens.
            local: also compute the local descriptors.
            adapted: False leaves the adapters out.
            batch_size: photos per pass; bounds the memory.

        Returns:
            Features on the model's device, in the order of the photos.

        Raises:
            PhotoError: a photo cannot be read.
            OptionError: no photos; or, where the aspect is kept, photos of different shapes.
        """
        if not isinstance(photos, Iterable) or isinstance(photos, (str, bytes, np.ndarray)):
            photos = [photos]
        return Features.cat(
            self.extract_each(photos, local=local, adapted=adapted, batch_size=batch_size)
        )

    @torch.inference_mode()
    def extract_each(
        self,
        photos: Iterable[images.PhotoSource],
        *,
        local: bool = False,
        adapted: bool = True,
        batch_size: int = 8,
        scale: float = 1.0,
    ) -> list[Features]:
        """Like ``extract``, one ``Features`` of batch size 1 per photo; shapes may differ.

        With another ``scale`` than 1 photos are looked at in that share of the model's input size.
        """
        if batch_size < 1:
            raise OptionError(f"batch_size must be 1 or more, not {batch_size}.")
        config = self.config if scale == 1 else self.config.at_scale(scale)
        opened = (images.load_image(photo) for photo in photos)
        tensors = [images.preprocess(photo, config, self.device) for photo in opened]
        results: list[Features | None] = [None] * len(tensors)
        sizes = [(t.shape[1], t.shape[2]) for t in tensors]
        # No layer behaves differently in training, so the mode is left alone: threads share us.
        for group in images.batches(sizes, batch_size):
            batch = torch.stack([tensors[i] for i in group]).to(self.device)
            for i, one in zip(group, self._infer(batch, local, adapted), strict=True):
                results[i] = one
        return [features for features in results if features is not None]

    def _infer(self, batch: Tensor, local: bool, adapted: bool) -> Features:
        def compute(pixels: Tensor, folded: Folded | None) -> Features:
            options: dict[str, Any] = {"local": local, "adapted": adapted}
            with self._autocast():
                if folded is not None:
                    options["folded"] = folded.blocks
                    return functional_call(self, dict(folded.weights), (pixels,), options)  # type: ignore[no-any-return]
                return self(pixels, **options)  # type: ignore[no-any-return]

        if self.device.type != "cuda":
            return compute(batch, None)
        return self._replays(self, self.precision, compute, batch, local, adapted)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.precision == torch.float32:
            return contextlib.nullcontext()
        # No weight is used twice in a pass: there is nothing to keep.
        return torch.autocast(self.device.type, dtype=self.precision, cache_enabled=False)

    def _embed(self, patches: Tensor, h: int, w: int) -> Tensor:
        """Add positions to ``[B, h*w, C]`` patches and put class and register tokens in front."""
        vit = self.backbone
        position = vit.pos_embed.float()
        with_class = self.config.registers == 0
        grid = _resample_positions(position[:, 1:] if with_class else position, h, w)
        first = vit.cls_token + position[:, :1] if with_class else vit.cls_token
        prefix = [first] if vit.reg_token is None else [first, vit.reg_token]
        rows = [token.expand(len(patches), -1, -1) for token in prefix]
        return torch.cat([*rows, patches + grid], dim=1)


def _resample_positions(grid: Tensor, h: int, w: int) -> Tensor:
    """Bring ``[1, 37*37, C]`` positions to ``[1, h*w, C]`` by the reference's formula.

    Bicubic without antialias at a scale of (n + 0.1)/37: the 0.1 guards DINOv2's own output size
    against rounding, and shifts the samples, so it has to be kept. One direction after the other,
    as products: torch's own takes longer on a GPU than all of ViT-L.
    """
    if (h, w) == (TRAINED_GRID, TRAINED_GRID):
        return grid
    square = grid.reshape(TRAINED_GRID, TRAINED_GRID, -1)
    with torch.autocast(grid.device.type, enabled=False):
        rows = torch.tensordot(_bicubic(h, grid.device), square, dims=1)
        resampled: Tensor = _bicubic(w, grid.device) @ rows
    return resampled.reshape(1, h * w, -1)


@functools.cache  # never forgotten: recordings on a GPU go on reading them
@torch.inference_mode(False)
def _bicubic(n: int, device: torch.device) -> Tensor:
    """``[n, 37]``: by how much each trained position counts for each of n."""
    each = torch.eye(TRAINED_GRID)[None, :, :, None]
    scale = (n + 0.1) / TRAINED_GRID
    taps: Tensor = F.interpolate(each, scale_factor=(scale, 1.0), mode="bicubic")
    return taps[0, :, :, 0].T.contiguous().to(device)


def _device(name: str | torch.device) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise OptionError(f"This machine has no device {str(name)!r}; try 'cpu'.") from error
    return device


def _precision(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        return torch.bfloat16 if device.type == "cpu" and _cpu_has_bf16() else torch.float32
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in known:
        raise OptionError(f"precision must be auto, {', '.join(known)}, not {name!r}.")
    if name == "float16" and device.type == "cpu":
        raise OptionError("float16 needs a GPU; use float32 or bfloat16 on a CPU.")
    return known[name]


def _cpu_has_bf16() -> bool:
    # Emulated bfloat16 is several times slower than float32; torch has no public question for it.
    return any(
        getattr(torch.cpu, question, lambda: False)()
        for question in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )

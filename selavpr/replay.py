"""CUDA graphs: what a network does to photos of one shape, recorded once and then replayed.

For one photo a ViT is a thousand small kernels, and asking a GPU for each of them takes longer than
it takes to compute them. A recording is asked for once.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Mapping

import torch
from torch import Tensor, nn

from selavpr.structs import Features

log = logging.getLogger(__name__)

SEEN = 2
"""Times a shape is computed plainly before it is recorded: recording takes as long as several."""

KEPT = 16
"""Recordings kept, the last used; each holds its activations' memory."""

Weights = Mapping[str, Tensor]
Compute = Callable[[Tensor, Weights], Features]
"""Features of ``[B, 3, H, W]`` pixels, with some of the network's weights replaced by others"""


class _Recording:
    """One shape's kernels, with the memory they read and write."""

    def __init__(self, compute: Compute, pixels: Tensor, weights: Weights) -> None:
        self._input = pixels.clone()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(pixels.device):
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                compute(
                    self._input, weights
                )  # libraries set up their workspaces, which no graph may
            torch.cuda.current_stream().wait_stream(stream)
            # Other threads may use the GPU for something else meanwhile.
            with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
                self._output = compute(self._input, weights)

    def __call__(self, pixels: Tensor) -> Features:
        self._input.copy_(pixels)
        self._graph.replay()
        local = self._output.local
        return Features(
            self._output.descriptor.clone(),
            self._output.tokens.clone(),
            None if local is None else local.clone(),
        )


class Replays:
    """Recordings of one network by shape. Threads take turns.

    They belong to the network's memory: a copy of it begins with none, and so does the network
    itself when its weights have changed.
    """

    def __init__(self) -> None:
        """Nothing is recorded yet."""
        self._weights: Weights = {}
        self._version = -1
        self._seen: Counter[Hashable] = Counter()
        self._recordings: OrderedDict[Hashable, _Recording] = OrderedDict()
        self._turn = threading.Lock()

    def __reduce__(self) -> tuple[type[Replays], tuple[()]]:
        """Copies and pickles are empty."""
        return Replays, ()

    def __call__(
        self,
        network: nn.Module,
        precision: torch.dtype,
        compute: Compute,
        pixels: Tensor,
        *options: Hashable,
    ) -> Features:
        """The features of a batch on a GPU, in inference mode.

        Args:
            network: whose weights these are.
            precision: of the arithmetic; weights are cast to it once, not in every pass.
            compute: makes the features; under autocast without its cache, whose tensors a recording
                would go on reading after they are gone.
            pixels: ``[B, 3, H, W]``.
            *options: what else ``compute`` depends on.
        """
        key = (tuple(pixels.shape), *options)
        with self._turn:
            version = sum(weight._version for weight in network.parameters())
            if version != self._version:
                self._version = version
                self._weights = {}
                self._seen.clear()
                self._recordings.clear()
            found = self._recordings.pop(key, None)
            if found is None:
                self._seen[key] += 1
                if self._seen[key] != SEEN + 1:  # too early; or recording failed, once and for all
                    return compute(pixels, {})
                try:
                    self._weights = self._weights or _cast(network, precision)
                    found = _Recording(compute, pixels, self._weights)
                except RuntimeError as error:
                    log.warning("A shape cannot be recorded and stays slower: %s", error)
                    return compute(pixels, {})
            self._recordings[key] = found
            while len(self._recordings) > KEPT:
                forgotten, _ = self._recordings.popitem(last=False)
                del self._seen[forgotten]
            return found(pixels)


def _cast(network: nn.Module, precision: torch.dtype) -> Weights:
    """What autocast would cast in every pass: weights of matrix products and convolutions."""
    return {
        f"{name}.{kind}": weight.to(precision)
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)
        for kind, weight in module.named_parameters(recurse=False)
    }

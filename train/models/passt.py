"""PaSST, the patchout spectrogram transformer, as a teacher.

    tinyscene teach passt --weights published --data DATA --split 5 --out RUN

K. Koutini et al., "Efficient Training of Audio Transformers with Patchout", Interspeech 2022, arXiv 2110.05069.
A vision transformer (pre-norm blocks, a class and a distillation token) on overlapping patches of 16 x 16 of the
log-mel. Where a patch lies is said by two embeddings, of its row (mel) and of its column (frame), so a clip shorter
than the ten seconds of AudioSet takes a stretch of the columns': one at random while training, the first otherwise.
Patchout leaves patches out while training, which is faster and regularises: whole rows, whole columns, single ones.

Names and shapes are those of the published checkpoints, which therefore load as they are, but for their `head_dist`:
a second classifier that DeiT brought along and that the published network never asks (it gives the mean of both
tokens to `head`). `published` drops it. Of the full size, construction, count, names, shapes and one forward pass
are tested; training is tested small, and no published weights were at hand.

Random numbers come from torch's generator on the CPU, whatever the torch device.
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinyscene.deploy.common.errors import InputError
from tinyscene.train.network_settings import PasstModel

MELS, FRAMES = 128, 998  # of the log-mels, ten seconds long, that the published weights were trained on
PATCH = 16  # mels, and frames
TOKENS = 2  # for the class and for distillation, before the patches
EPSILON = 1e-6  # of the LayerNorms, but for the classifier's, which has torch's default
DEVIATION = 0.02  # of freshly initialised weights


class Attention(nn.Module):
    """Multi-head self-attention, (batch, token, width) -> the same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(x).unflatten(2, (3, self.heads, -1))  # (batch, token, 3, head, width / heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # (batch, head, token, width / heads) each
        x = F.scaled_dot_product_attention(query, key, value)
        return self.proj(x.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A pre-norm transformer block, (batch, token, width) -> the same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, EPSILON)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, EPSILON)
        layers = {"fc1": nn.Linear(width, 4 * width), "act": nn.GELU(), "fc2": nn.Linear(4 * width, width)}
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Passt(nn.Module):
    """Log-mel (batch, 1, mel, frame), 128 mels and 16 frames or more -> logits (batch, classes).

    Raises InputError for a log-mel of another size, and for patchout that leaves nothing of one.
    """

    classifier_prefixes = ("head.1.",)  # names of the classifier's tensors begin so

    def __init__(self, model: PasstModel, classes: int) -> None:
        super().__init__()
        width, rows, columns = model.width, (MELS - PATCH) // model.stride + 1, FRAMES // model.stride
        if width % model.heads:
            raise InputError(f"model.width is {width}: it must be a multiple of model.heads, {model.heads}")
        self.settings = model
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.dist_token = nn.Parameter(torch.empty(1, 1, width))
        self.new_pos_embed = nn.Parameter(torch.empty(1, TOKENS, width))
        self.freq_new_pos_embed = nn.Parameter(torch.empty(1, width, rows, 1))
        self.time_new_pos_embed = nn.Parameter(torch.empty(1, width, 1, columns))
        self.patch_embed = nn.Sequential(OrderedDict(proj=nn.Conv2d(1, width, PATCH, model.stride)))
        self.blocks = nn.Sequential(*(Block(width, model.heads) for _ in range(model.depth)))
        self.norm = nn.LayerNorm(width, EPSILON)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))
        for own in self.parameters(recurse=False):
            nn.init.trunc_normal_(own, std=DEVIATION)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=DEVIATION)
                nn.init.zeros_(module.bias)

    @staticmethod
    def published(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a published checkpoint that the network has: all but the classifier it never asks."""
        return {name: tensor for name, tensor in tensors.items() if not name.startswith("head_dist.")}

    def forward(self, log_mel: Tensor) -> Tensor:
        patches = self._patches(log_mel)  # (batch, patch, width)
        tokens = torch.cat([self.cls_token, self.dist_token], dim=1) + self.new_pos_embed  # (1, token, width)
        x = torch.cat([tokens.expand(len(patches), -1, -1), patches], dim=1)
        x = self.blocks(x)[:, :TOKENS]
        return self.head(self.norm(x).mean(1))

    def _patches(self, log_mel: Tensor) -> Tensor:
        """The patches, each with its place, (batch, patch, width); while training, without those of patchout."""
        mels, frames = log_mel.shape[2:]
        if mels != MELS or frames < PATCH:
            raise InputError(f"PaSST hears {MELS} mels and {PATCH} frames or more, not {mels} x {frames}: see features")
        x = self.patch_embed(log_mel)  # (batch, width, row, column)
        columns, places = x.shape[3], self.time_new_pos_embed.shape[3]
        if columns > places:
            raise InputError(
                f"PaSST has places for {places} columns of patches, not {columns}: see features.hop_length"
            )
        first = int(torch.randint(places - columns + 1, ())) if self.training else 0
        x = x + self.freq_new_pos_embed + self.time_new_pos_embed[..., first : first + columns]
        if self.training:
            x = _leave_out(x, "patchout_frame", self.settings.patchout_frame, dim=3)
            x = _leave_out(x, "patchout_mel", self.settings.patchout_mel, dim=2)
        x = x.flatten(2).transpose(1, 2)  # (batch, patch, width)
        return _leave_out(x, "patchout", self.settings.patchout, dim=1) if self.training else x


def _leave_out(x: Tensor, key: str, count: int, dim: int) -> Tensor:
    """All but `count` random ones along a dimension, in their order, the same for the whole batch."""
    if count == 0:
        return x
    if count >= x.shape[dim]:
        raise InputError(f"model.{key} is {count}: there are {x.shape[dim]} to leave out, and one must stay")
    indices = torch.randperm(x.shape[dim])[count:].sort().values
    return x.index_select(dim, indices.to(x.device))

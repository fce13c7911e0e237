"""AST, the audio spectrogram transformer, as a teacher, through `transformers` and `peft`.

    tinyscene teach ast --weights published --data DATA --split 5 --out RUN [--set model.tuning=full]

Y. Gong et al., "AST: Audio Spectrogram Transformer", Interspeech 2021, arXiv 2104.01778: a vision transformer on
patches of 16 x 16 of a log-mel, 6 of which overlap, in 12 rows and, for one second, 9 columns. Every patch has a place,
whose embedding is added to it; of the 101 columns that the published weights know, the 9 in the middle are taken, as
the authors do with short clips.

Two tunings. `full` trains all weights. `lora` (E. Hu et al., "LoRA", ICLR 2022) trains a product of two narrow matrices
that is added to each query and value matrix, the LayerNorm before the classifier and the classifier, 0.5 % of the
weights; U. Cappellazzo et al., MLSP 2024, arXiv 2312.03694, compare such sparing ways of tuning AST. `finished` merges
the products into the matrices that they are added to.

`published` names tensors as the network does. They are published under the names that transformers gave them at first;
those of transformers 5.10 and later differ by `RENAMED`, and LoRA puts parts of its own into a name ("model" and
"base_layer"). Tensors under the network's names pass as they are.

Of the full size, construction, count, names, shapes and one forward pass are tested; training is tested small, and no
published weights were at hand.
"""

import copy
from collections import OrderedDict

import torch
from torch import Tensor, nn

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.installation import missing
from tinyscene.train.network_settings import AstModel

try:
    from peft import LoraConfig, LoraModel
    from transformers import ASTConfig, ASTModel
except ImportError as error:
    raise missing(str(error.name), "teachers", "the teacher ast") from None

MELS, FRAMES = 128, 98  # of one second
PATCH, STRIDE = 16, 10  # mels, and frames
ROWS, COLUMNS = (MELS - PATCH) // STRIDE + 1, (FRAMES - PATCH) // STRIDE + 1
TOKENS = 2  # for the class and for distillation, before the patches
DEVIATION = 0.02  # of freshly initialised weights
PLACES = "embeddings.position_embeddings"  # (1, token + row x column, width)
RENAMED = {  # in this order
    ".encoder.layer.": ".layers.",
    ".attention.attention.query.": ".attention.q_proj.",
    ".attention.attention.key.": ".attention.k_proj.",
    ".attention.attention.value.": ".attention.v_proj.",
    ".attention.output.dense.": ".attention.o_proj.",
    ".intermediate.dense.": ".mlp.fc1.",
    ".output.dense.": ".mlp.fc2.",
}


class Ast(nn.Module):
    """Log-mel (batch, 1, 128 mel, 98 frame) -> logits (batch, classes).

    Raises InputError for a log-mel that does not make 12 x 9 patches, and for a width that the heads do not divide.
    """

    classifier_prefixes = ("classifier.dense.",)  # names of the classifier's tensors begin so

    def __init__(self, model: AstModel, classes: int) -> None:
        super().__init__()
        width = model.width
        if width % model.heads:
            raise InputError(f"model.width is {width}: it must be a multiple of model.heads, {model.heads}")
        self.settings = model
        config = ASTConfig(
            hidden_size=width,
            num_hidden_layers=model.depth,
            num_attention_heads=model.heads,
            intermediate_size=4 * width,
            initializer_range=DEVIATION,
            patch_size=PATCH,
            frequency_stride=STRIDE,
            time_stride=STRIDE,
            max_length=FRAMES,
            num_mel_bins=MELS,
        )
        transformer = ASTModel(config)
        for embedding in transformer.embeddings.parameters(recurse=False):  # zeros, or the two tokens would stay alike
            nn.init.trunc_normal_(embedding, std=DEVIATION)
        layernorm, dense = nn.LayerNorm(width, config.layer_norm_eps), nn.Linear(width, classes)
        nn.init.trunc_normal_(dense.weight, std=DEVIATION)
        nn.init.zeros_(dense.bias)
        self.classifier = nn.Sequential(OrderedDict(layernorm=layernorm, dense=dense))
        self.audio_spectrogram_transformer: nn.Module = transformer
        if model.tuning == "lora":  # which freezes the rest of the transformer
            lora = LoraConfig(r=model.rank, lora_alpha=model.rank, target_modules=["q_proj", "v_proj"])
            self.audio_spectrogram_transformer = LoraModel(transformer, lora, "default")

    def forward(self, log_mel: Tensor) -> Tensor:
        mels, frames = log_mel.shape[2:]
        if mels != MELS or (frames - PATCH) // STRIDE + 1 != COLUMNS:
            raise InputError(f"AST hears {MELS} mels and {FRAMES} frames, not {mels} x {frames}: see features")
        spectrogram = log_mel.squeeze(1).transpose(1, 2)  # (batch, frame, mel)
        tokens = self.audio_spectrogram_transformer(spectrogram).pooler_output  # (batch, width), the mean of both
        return self.classifier(tokens)

    def published(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Published tensors, or those of an AST that was not tuned with LoRA, under the network's names.

        Places are cut to one second. What LoRA adds to the network is as it was initialised.
        """
        own = self.state_dict()
        added = {name: tensor for name, tensor in own.items() if ".lora_" in name}
        names = {_without_lora(name): name for name in own if name not in added}
        renamed_tensors = {names.get(_renamed(name), _renamed(name)): tensor for name, tensor in tensors.items()}
        return added | {
            name: _cut(tensor) if name.endswith(PLACES) else tensor for name, tensor in renamed_tensors.items()
        }

    def finished(self) -> "Ast":
        """The network that is kept: LoRA's products merged, every name that of full tuning. This one stays as it is."""
        if self.settings.tuning == "full":
            return self
        network = copy.deepcopy(self)
        assert isinstance(network.audio_spectrogram_transformer, LoraModel)
        network.audio_spectrogram_transformer = network.audio_spectrogram_transformer.merge_and_unload()
        network.settings = self.settings.finished()
        return network.requires_grad_(True)


def _renamed(name: str) -> str:
    """The name of transformers 5.10 for one of before."""
    for old, new in RENAMED.items():
        name = name.replace(old, new)
    return name


def _without_lora(name: str) -> str:
    return name.replace("audio_spectrogram_transformer.model.", "audio_spectrogram_transformer.", 1).replace(
        ".base_layer.", "."
    )


def _cut(places: Tensor) -> Tensor:
    """The columns in the middle, as many as one second has. Others than of 12 rows, or fewer, are left as they are."""
    columns, rest = divmod(places.shape[1] - TOKENS, ROWS) if places.ndim == 3 else (0, 0)
    if rest or columns < COLUMNS:
        return places
    tokens, patches = places.split([TOKENS, ROWS * columns], dim=1)
    first = columns // 2 - COLUMNS // 2
    middle = patches.unflatten(1, (ROWS, columns))[:, :, first : first + COLUMNS]  # (1, row, column, width)
    return torch.cat([tokens, middle.flatten(1, 2)], dim=1)

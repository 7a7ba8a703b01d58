"""Transformers, recurrent and one-dimensional networks, point clouds."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Mlp(nn.Module):
    """Wide, GELU, narrow."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, values: Tensor) -> Tensor:
        return self.narrow(functional.gelu(self.wide(values)))


class JointAttention(nn.Module):
    """Queries, keys and values of one matrix (timm's form)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.joint, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, values: Tensor, bias: Tensor | None = None) -> Tensor:
        batch, length, width = values.shape
        joint = self.joint(values).reshape(batch, length, 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
        query, key, value = joint[0], joint[1], joint[2]
        weights = query @ key.transpose(-2, -1) * self.size**-0.5
        weights = (weights if bias is None else weights + bias).softmax(-1)
        return self.out((weights @ value).transpose(1, 2).reshape(batch, length, width))


class SeparateAttention(nn.Module):
    """Three matrices (Hugging Face's form), with an optional mask that is added."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def split(self, values: Tensor) -> Tensor:
        return values.view(values.shape[0], values.shape[1], self.heads, self.size).permute(0, 2, 1, 3)

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Tensor:
        query, key, value = (self.split(layer(values)) for layer in (self.query, self.key, self.value))
        weights = torch.matmul(query, key.transpose(-1, -2)) / self.size**0.5
        weights = (weights if mask is None else weights + mask).softmax(-1)
        return self.out(torch.matmul(weights, value).permute(0, 2, 1, 3).flatten(2))


class Vit(nn.Module):
    """Dosovitskiy et al. 2021: class token, learned positions, normalisation first."""

    def __init__(self, width: int = 24, heads: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.token, self.position = nn.Parameter(torch.randn(1, 1, width)), nn.Parameter(torch.randn(1, 17, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(5))
        self.attention = nn.ModuleList(JointAttention(width, heads) for _ in range(2))
        self.mlp = nn.ModuleList(Mlp(width, 2 * width) for _ in range(2))
        self.head = nn.Linear(width, 5)

    def forward(self, images: Tensor) -> Tensor:
        values = self.patches(images).flatten(2).transpose(1, 2)
        values = torch.cat([self.token.expand(values.shape[0], -1, -1), values], 1) + self.position
        return self.head(self.norms[4](self.blocks(values))[:, 0])

    def blocks(self, values: Tensor) -> Tensor:
        for index in range(2):
            values = values + self.attention[index](self.norms[2 * index](values))
            values = values + self.mlp[index](self.norms[2 * index + 1](values))
        return values


class Deit(Vit):
    """Touvron et al. 2021: a second token learns from a teacher; both tokens' heads are averaged."""

    def __init__(self, width: int = 24, heads: int = 3) -> None:
        super().__init__(width, heads)
        self.teacher, self.position = nn.Parameter(torch.randn(1, 1, width)), nn.Parameter(torch.randn(1, 18, width))
        self.second = nn.Linear(width, 5)

    def forward(self, images: Tensor) -> Tensor:
        values = self.patches(images).flatten(2).transpose(1, 2)
        tokens = [token.expand(values.shape[0], -1, -1) for token in (self.token, self.teacher)]
        values = self.norms[4](self.blocks(torch.cat([*tokens, values], 1) + self.position))
        return (self.head(values[:, 0]) + self.second(values[:, 1])) / 2


class Swin(nn.Module):
    """Liu et al. 2021: attention inside windows, shifted in the second block, with learned position biases."""

    def __init__(self, width: int = 16, window: int = 4) -> None:
        super().__init__()
        self.window = window
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.attention = nn.ModuleList(JointAttention(width, 2) for _ in range(2))
        self.bias = nn.Parameter(torch.randn(2, window**2, window**2))
        self.mlp = nn.ModuleList(Mlp(width, 2 * width) for _ in range(2))
        self.merge, self.head = nn.Linear(4 * width, 2 * width, bias=False), nn.Linear(2 * width, 5)

    def windows(self, values: Tensor) -> Tensor:
        batch, height, width, channels = values.shape
        size = self.window
        values = values.view(batch, height // size, size, width // size, size, channels)
        return values.permute(0, 1, 3, 2, 4, 5).reshape(-1, size * size, channels)

    def image(self, values: Tensor, height: int, width: int) -> Tensor:
        size = self.window
        values = values.view(-1, height // size, width // size, size, size, values.shape[-1])
        return values.permute(0, 1, 3, 2, 4, 5).reshape(-1, height, width, values.shape[-1])

    def forward(self, images: Tensor) -> Tensor:
        values = self.patches(images).permute(0, 2, 3, 1)
        for index in range(2):
            inner = self.norms[2 * index](values)
            inner = torch.roll(inner, (-2, -2), (1, 2)) if index else inner
            inner = self.image(self.attention[index](self.windows(inner), self.bias), 8, 8)
            values = values + (torch.roll(inner, (2, 2), (1, 2)) if index else inner)
            values = values + self.mlp[index](self.norms[2 * index + 1](values))
        corners = [values[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.head(self.merge(torch.cat(corners, -1)).mean((1, 2)))


class Mixer(nn.Module):
    """Tolstikhin et al. 2021: one MLP over positions, one over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, 8)
        self.norms = nn.ModuleList(nn.LayerNorm(16) for _ in range(3))
        self.places, self.channels, self.head = Mlp(16, 24), Mlp(16, 32), nn.Linear(16, 5)

    def forward(self, images: Tensor) -> Tensor:
        values = self.patches(images).flatten(2).transpose(1, 2)
        values = values + self.places(self.norms[0](values).transpose(1, 2)).transpose(1, 2)
        values = values + self.channels(self.norms[1](values))
        return self.head(self.norms[2](values).mean(1))


class Bert(nn.Module):
    """Devlin et al. 2019: three embeddings, padding mask, normalisation behind the sums, pooled by tanh."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.words, self.places, self.kinds = nn.Embedding(50, width), nn.Embedding(16, width), nn.Embedding(2, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(5))
        self.attention = nn.ModuleList(SeparateAttention(width, 4) for _ in range(2))
        self.mlp = nn.ModuleList(Mlp(width, 48) for _ in range(2))
        self.pool, self.head = nn.Linear(width, width), nn.Linear(width, 3)

    def forward(self, words: Tensor, mask: Tensor, kinds: Tensor) -> Tensor:
        places = torch.arange(words.shape[1])[None]
        values = self.norms[0](self.words(words) + self.places(places) + self.kinds(kinds))
        hidden = (1.0 - mask[:, None, None, :].float()) * -10000.0
        for index in range(2):
            values = self.norms[2 * index + 1](values + self.attention[index](values, hidden))
            values = self.norms[2 * index + 2](values + self.mlp[index](values))
        return self.head(torch.tanh(self.pool(values[:, 0])))


class Gpt(nn.Module):
    """Radford et al. 2019: causal mask as a stored triangle, joint projection that is split."""

    def __init__(self, width: int = 24, heads: int = 3) -> None:
        super().__init__()
        self.heads = heads
        self.words, self.places = nn.Embedding(40, width), nn.Parameter(torch.randn(1, 16, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.joint, self.out, self.mlp = nn.Linear(width, 3 * width), nn.Linear(width, width), Mlp(width, 64)
        self.head = nn.Linear(width, 40, bias=False)
        self.register_buffer("triangle", torch.tril(torch.ones(1, 1, 16, 16)))

    def forward(self, words: Tensor) -> Tensor:
        values = self.words(words) + self.places
        batch, length, width = values.shape
        parts = self.joint(self.norms[0](values)).split(width, 2)
        query, key, value = (p.view(batch, length, self.heads, -1).transpose(1, 2) for p in parts)
        weights = query @ key.transpose(-2, -1) * (width // self.heads) ** -0.5
        weights = weights.masked_fill(self.triangle == 0, float("-inf")).softmax(-1)
        values = values + self.out((weights @ value).transpose(1, 2).reshape(batch, length, width))
        values = values + self.mlp(self.norms[1](values))
        return self.head(self.norms[2](values))


class _RmsNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, values: Tensor) -> Tensor:
        return self.weight * (values * torch.rsqrt(values.pow(2).mean(-1, keepdim=True) + 1e-6))


class Llama(nn.Module):
    """Touvron et al. 2023: RMS normalisation, rotary positions, grouped queries (4 heads, 2 of keys), SwiGLU."""

    def __init__(self, width: int = 32, heads: int = 4, shared: int = 2) -> None:
        super().__init__()
        self.heads, self.shared, self.size = heads, shared, width // heads
        self.words = nn.Embedding(40, width)
        self.norm1, self.norm2, self.norm3 = _RmsNorm(width), _RmsNorm(width), _RmsNorm(width)
        self.query, self.out = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, shared * self.size, bias=False)
        self.value = nn.Linear(width, shared * self.size, bias=False)
        self.gate, self.up = nn.Linear(width, 48, bias=False), nn.Linear(width, 48, bias=False)
        self.down, self.head = nn.Linear(48, width, bias=False), nn.Linear(width, 40, bias=False)
        angles = torch.outer(torch.arange(12.0), 10000 ** (-torch.arange(0, self.size, 2) / self.size))
        self.register_buffer("cos", torch.cat([angles, angles], -1).cos())
        self.register_buffer("sin", torch.cat([angles, angles], -1).sin())

    def turned(self, values: Tensor) -> Tensor:
        first, second = values[..., : self.size // 2], values[..., self.size // 2 :]
        return values * self.cos + torch.cat([-second, first], -1) * self.sin

    def forward(self, words: Tensor) -> Tensor:
        values = self.words(words)
        batch, length, width = values.shape
        ready = self.norm1(values)
        query, key, value = (
            layer(ready).view(batch, length, -1, self.size).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        query, key = self.turned(query), self.turned(key)
        repeats = self.heads // self.shared
        key, value = (
            each[:, :, None]
            .expand(batch, self.shared, repeats, length, self.size)
            .reshape(batch, -1, length, self.size)
            for each in (key, value)
        )
        mask = torch.full((length, length), -1e9).triu(1)
        weights = (query @ key.transpose(2, 3) / self.size**0.5 + mask).softmax(-1)
        values = values + self.out((weights @ value).transpose(1, 2).reshape(batch, length, width))
        ready = self.norm2(values)
        values = values + self.down(functional.silu(self.gate(ready)) * self.up(ready))
        return self.head(self.norm3(values))


def audio_cnn() -> nn.Module:
    """Dai et al. 2017: convolutions on the raw waveform."""
    layers: list[nn.Module] = []
    for inputs, outputs, kernel, stride in ((1, 12, 15, 4), (12, 12, 3, 1), (12, 24, 3, 1)):
        layers += [nn.Conv1d(inputs, outputs, kernel, stride, kernel // 2), nn.BatchNorm1d(outputs), nn.ReLU()]
        layers.append(nn.MaxPool1d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(24, 5))


class _Causal(nn.Module):
    def __init__(self, inputs: int, outputs: int, dilation: int) -> None:
        super().__init__()
        self.past = 2 * dilation
        self.first = nn.Conv1d(inputs, outputs, 3, 1, 2 * dilation, dilation)
        self.second = nn.Conv1d(outputs, outputs, 3, 1, 2 * dilation, dilation)
        self.skip = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, values: Tensor) -> Tensor:
        hidden = functional.relu(self.first(values)[:, :, : -self.past])
        hidden = functional.relu(self.second(hidden)[:, :, : -self.past])
        return functional.relu(hidden + self.skip(values))


class Tcn(nn.Module):
    """Bai et al. 2018: dilated causal convolutions; the last step is read."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(_Causal(4, 12, 1), _Causal(12, 16, 2), _Causal(16, 16, 4))
        self.head = nn.Linear(16, 3)

    def forward(self, values: Tensor) -> Tensor:
        return self.head(self.body(values)[:, :, -1])


class PointNet(nn.Module):
    """Qi et al. 2017: a learned 3 x 3 turn, shared layers per point, maximum over points, a label per point."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Sequential(nn.Conv1d(3, 8, 1), nn.ReLU(), nn.Conv1d(8, 16, 1), nn.ReLU())
        self.turn = nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 9))
        self.near = nn.Sequential(nn.Conv1d(3, 16, 1), nn.BatchNorm1d(16), nn.ReLU())
        self.far = nn.Sequential(nn.Conv1d(16, 32, 1), nn.BatchNorm1d(32), nn.ReLU())
        self.label = nn.Sequential(nn.Conv1d(48, 16, 1), nn.ReLU(), nn.Conv1d(16, 4, 1))

    def forward(self, points: Tensor) -> Tensor:
        turn = self.turn(self.look(points).max(2)[0]).view(-1, 3, 3)
        near = self.near(torch.bmm(turn, points))
        whole = self.far(near).max(2, keepdim=True)[0].expand(-1, -1, points.shape[2])
        return self.label(torch.cat([near, whole], 1))


class Tagger(nn.Module):
    """Huang et al. 2015: embedding, two-way LSTM, a tag per word behind two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.lstm = nn.Embedding(30, 12), nn.LSTM(12, 10, batch_first=True, bidirectional=True)
        self.hidden, self.head = nn.Linear(20, 16), nn.Linear(16, 4)

    def forward(self, words: Tensor) -> Tensor:
        values, _ = self.lstm(self.words(words))
        return self.head(functional.relu(self.hidden(values)))

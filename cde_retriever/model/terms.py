"""Pool a text by what a context says about its words: how many of the context's documents hold each token.

BM25 knows that "NFL" is worth little inside a sports archive. So does this head. With p the share of documents that
hold a token, estimated from c context documents and a prior worth κ documents (Dirichlet smoothing, Zhai & Lafferty
2001), a token says an inverse document frequency that is 0 for what every document holds, shrunk towards the prior's:

    p_t = (df_t + κ prior_t) / (c + κ)          s_t = (1 - λ) f(p_t) + λ f(prior_t)          f(p) = log((1 + p) / 2p)

λ is set, not learned: no loss over one domain shows what a context takes away from another. A text's T token vectors
h_t are pooled by what the tokens say, where s and T decide how much that counts,

    z = normalize(Σ_t (1 + s_t / o)^a(T) exp(h_t · v) h_t)                a(T) = a_0 + a_1 log(T / 32)

and its words are kept beside it as a random projection of BM25's saturated term weights (signs e_t; Achlioptas 2003,
so that the cosine of two projections is that of the term weights up to 1 / √m),

    l = normalize(Σ_t s_t^β (1 + k) / (tf_t + k) exp(h_t · u) e_t)        y = normalize([z; μ(T) l])

with μ(T) = μ_0 + μ_1 log(T / 32). Learned: κ, o, a, β, k, μ, v and u; z, (d,), may pass the moment head before it is
joined with l, (m,). The null context has c = 0: the prior alone speaks.

Shapes: V tokens in the vocabulary, m sketch width, b texts, s tokens, d width.
"""

import hashlib
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cde_retriever.model.moments import at_least_float32

START_DOCUMENTS = 256.0
START_PRIOR = 1e-3
START_POWER, START_POWER_BY_LENGTH = 0.7, -0.15
START_SATURATION = 0.5
START_MIX, START_MIX_BY_LENGTH = 0.7, -0.1
"""Chosen with all-MiniLM-L6-v2 on ten development sets and 52 other corpora (docs/log.md): good before any training."""
TYPICAL_LENGTH = 32.0
"""Tokens; where the two numbers that turn with a text's length are those of the formulas with index 0."""
LEAST_INFORMATION = 1e-6


class TermHead(nn.Module):
    """The learned numbers of the formulas above.

    Args:
        vocabulary: Size of the tokenizer's vocabulary, V.
        width: Width of the token vectors, d.
        sketch_width: Width of the projected term weights, m; 0 for pooling alone.
        shrinkage: λ, in [0, 1): how far what tokens say in a context is drawn back to what they say in general.
    """

    signs: Tensor
    log_prior: Tensor

    def __init__(self, vocabulary: int, width: int, sketch_width: int, shrinkage: float = 0.0) -> None:
        super().__init__()
        self.sketch_width = sketch_width
        self.shrinkage = shrinkage
        self.register_buffer("log_prior", torch.full((vocabulary,), math.log(START_PRIOR)))
        self.log_documents = nn.Parameter(torch.tensor(math.log(START_DOCUMENTS)))
        self.log_offset = nn.Parameter(torch.tensor(math.log(math.log(2))))
        self.power = nn.Parameter(torch.tensor(START_POWER))
        self.power_by_length = nn.Parameter(torch.tensor(START_POWER_BY_LENGTH))
        self.token_direction = nn.Parameter(torch.zeros(width))
        if sketch_width:
            self.register_buffer("signs", token_signs(vocabulary, sketch_width), persistent=False)
            self.term_power = nn.Parameter(torch.ones(()))
            self.log_saturation = nn.Parameter(torch.tensor(math.log(START_SATURATION)))
            self.term_direction = nn.Parameter(torch.zeros(width))
            self.mix = nn.Parameter(torch.tensor(START_MIX))
            self.mix_by_length = nn.Parameter(torch.tensor(START_MIX_BY_LENGTH))

    @property
    def has_prior(self) -> bool:
        """Whether the prior was estimated; until then every token has the same."""
        return bool((self.log_prior != self.log_prior[0]).any())

    def information(self, frequencies: Tensor, documents: int | Tensor) -> Tensor:
        """Return s of every token, (V,), at least 0.

        Args:
            frequencies: Number of context documents that hold each token, (V,).
            documents: How many documents that is of; 0 for the null context.
        """
        with torch.autocast(frequencies.device.type, enabled=False):
            worth = at_least_float32(self.log_documents).exp()
            prior = at_least_float32(self.log_prior).exp()
            share = (frequencies.to(prior.dtype) + worth * prior) / (documents + worth)
            return torch.lerp(_information(share), _information(prior), self.shrinkage)

    def read(self, input_ids: Tensor, mask: Tensor, information: Tensor) -> "TextTerms":
        """Return what a context says about texts, of token ids and mask, (b, s)."""
        dtype = torch.promote_types(information.dtype, torch.float32)
        lengths = mask.sum(dim=1, keepdim=True, dtype=dtype)
        return TextTerms(input_ids, mask, information[input_ids], (lengths / TYPICAL_LENGTH).log())

    def pool(self, hidden: Tensor, terms: "TextTerms") -> Tensor:
        """Return weighted means, (b, d), of texts' last hidden states, (b, s, d), in their dtype."""
        dtype = hidden.dtype
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = at_least_float32(hidden)
            power = _line(self.power, self.power_by_length, terms.log_lengths)
            informative = torch.log1p(terms.information / at_least_float32(self.log_offset).exp())
            logits = torch.addcmul(_project(hidden, self.token_direction), power, informative)
            weights = logits.masked_fill(terms.mask == 0, -math.inf).softmax(dim=-1)
            return _mix(weights, hidden).to(dtype)

    def join(self, pooled: Tensor, hidden: Tensor, terms: "TextTerms") -> Tensor:
        """Return unit vectors, (b, d + m), of pooled unit vectors, (b, d), and the terms of the same texts."""
        if not self.sketch_width:
            return pooled
        with torch.autocast(hidden.device.type, enabled=False):
            ids, mask = terms.input_ids, terms.mask
            words = terms.information.clamp_min(LEAST_INFORMATION) ** at_least_float32(self.term_power)
            counts = ((ids[:, :, None] == ids[:, None, :]) * mask[:, None, :]).sum(dim=-1)
            # 1 + k is the same for all, and the sketch is normalised.
            words = words / (counts + at_least_float32(self.log_saturation).exp())
            words = words * _project(at_least_float32(hidden), self.term_direction).exp() * mask
            sketch = nn.functional.normalize(_mix(words, self.signs[ids].to(words.dtype)), dim=-1)
            share = _line(self.mix, self.mix_by_length, terms.log_lengths)
            return nn.functional.normalize(torch.cat([at_least_float32(pooled), share * sketch], dim=-1), dim=-1)


class TextTerms(NamedTuple):
    """The tokens of texts, and what a context says about them.

    Attributes:
        input_ids: Token ids, (b, s).
        mask: 1 where a token is, 0 where padding is, (b, s).
        information: s of every token, (b, s).
        log_lengths: log(T / 32), (b, 1).
    """

    input_ids: Tensor
    mask: Tensor
    information: Tensor
    log_lengths: Tensor


def _line(level: Tensor, slope: Tensor, log_lengths: Tensor) -> Tensor:
    """Return a number a text, (b, 1), that turns with the logarithm of its length."""
    return torch.addcmul(at_least_float32(level), at_least_float32(slope), log_lengths)


def _mix(weights: Tensor, rows: Tensor) -> Tensor:
    """Return weighted sums, (b, m), of each text's rows, (b, s, m)."""
    return torch.bmm(weights[:, None], rows)[:, 0]


def _information(share: Tensor) -> Tensor:
    return (torch.log1p(share) - torch.log(2 * share)).clamp_min(0)


def _project(hidden: Tensor, direction: Tensor) -> Tensor:
    # Over √d, so that an optimiser's step moves a direction as far as it moves a single number.
    return hidden @ (at_least_float32(direction) / math.sqrt(len(direction)))


def token_signs(vocabulary: int, width: int) -> Tensor:
    """Return a random sign for each token and dimension, (V, m) int8, the same on every machine.

    Hashes of the token's number give the bits, so a checkpoint need not store them.
    """
    size = math.ceil(width / 8)
    rows = b"".join(hashlib.shake_128(token.to_bytes(8, "little")).digest(size) for token in range(vocabulary))
    bits = np.unpackbits(np.frombuffer(rows, dtype=np.uint8).reshape(vocabulary, size), axis=1)[:, :width]
    return torch.from_numpy(2 * bits.astype(np.int8) - 1)

"""Term statistics of a context: against the formulas in plain Python, and the symmetries they must have."""

import hashlib
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.direct_step import direct_step
from cde_retriever import Context, ContextualEncoder
from cde_retriever.context.making import make_context
from cde_retriever.context.sampling import sample_documents
from cde_retriever.errors import ConfigError, ContextError, ContextFormatError
from cde_retriever.model.terms import TermHead, token_signs
from cde_train.data.pairs import TrainingPair, documents_by_domain
from cde_train.training.batches import BatchBuilder, TrainingSet
from cde_train.training.config import StartConfig, TrainConfig
from cde_train.training.gradient_caching import Chunking, TwoStageBatch, cached_step
from cde_train.training.low_rank import write_low_rank
from cde_train.training.start import start_from
from cde_train.training.term_prior import LEAST_SHARE, estimate_prior
from cde_train.training.trainer import train
from tests.tiny import FAMILIES, documents, plain_encoder, plain_vectors, tiny_encoder

SKETCH = 64


def term_encoder(family="bert", *, sketch_width=SKETCH, **config):
    return tiny_encoder(
        family,
        context_attention="late",
        term_statistics=True,
        sketch_width=sketch_width,
        **({"context_size": 64} | config),
    )


def by_hand(encoder, texts, context):
    """Embed texts one by one after the module docstring of `cde_retriever.model.terms`, token by token in float64."""
    second = encoder.open_model().second_stage
    head = second.term_head
    prior = head.log_prior.exp().tolist()
    worth = head.log_documents.exp().item()
    counts = dict(context.frequencies.tolist())
    signs = token_signs(encoder.vocabulary_size, head.sketch_width).tolist() if head.sketch_width else None
    rows = []
    for ids in encoder.tokenize(texts, "document").ids:
        share = [(counts.get(t, 0) + worth * prior[t]) / (context.size + worth) for t in ids]
        here, always = ([max(math.log((1 + p) / (2 * p)), 0.0) for p in q] for q in (share, [prior[t] for t in ids]))
        back = encoder.config.term_shrinkage
        says = [(1 - back) * s + back * general for s, general in zip(here, always, strict=True)]
        with torch.no_grad():
            hidden = second.backbone(input_ids=torch.tensor([ids])).last_hidden_state[0].double()
        length = math.log(len(ids) / 32)
        root = math.sqrt(hidden.shape[1])

        def number(name, head=head):
            return getattr(head, name).item()

        power = number("power") + number("power_by_length") * length
        offset = math.exp(number("log_offset"))
        pooled = sum(
            (1 + s / offset) ** power * math.exp(float(h @ head.token_direction.detach().double()) / root) * h
            for s, h in zip(says, hidden, strict=True)
        )
        plain = (pooled / pooled.norm())[None].float()
        if second.moment_head is not None:
            plain = second.moment_head(plain, *second.moment_head.moments(torch.tensor(context.vectors)))
        moved = plain[0].double()
        if signs is None:
            rows.append(moved.detach().numpy())
            continue
        k = math.exp(number("log_saturation"))
        sketch = np.zeros(head.sketch_width)
        for t, s, h in zip(ids, says, hidden, strict=True):
            weight = max(s, 1e-6) ** number("term_power") * (1 + k) / (ids.count(t) + k)
            sketch += weight * math.exp(float(h @ head.term_direction.detach().double()) / root) * np.array(signs[t])
        mix = number("mix") + number("mix_by_length") * length
        whole = np.concatenate([moved.detach().numpy(), mix * sketch / np.linalg.norm(sketch)])
        rows.append(whole / np.linalg.norm(whole))
    return np.stack(rows)


@pytest.mark.parametrize(("moments", "shrinkage"), [(True, 0.3), (False, 0.0), (False, 0.6)])
@pytest.mark.parametrize("sketch_width", [0, SKETCH])
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_formulas(family, sketch_width, moments, shrinkage):
    encoder = term_encoder(family, sketch_width=sketch_width, context_moments=moments, term_shrinkage=shrinkage)
    texts = [*documents(7, seed=5), "baron baron baron lulak", ""]
    found = []
    for context in (encoder.fit_context(documents(300)), encoder.null_context()):
        encoder.set_context(context)
        found.append(encoder.encode_documents(texts))
        np.testing.assert_allclose(found[-1], by_hand(encoder, texts, context), atol=2e-5, rtol=0)
    assert found[0].shape == (9, 32 + sketch_width)
    assert encoder.dimension == 32 + sketch_width
    assert np.abs(found[0] - found[1]).max() > 2e-4, "the context must matter"


def test_what_every_document_holds_says_nothing_and_rare_words_most():
    head = TermHead(5, 4, 0)
    head.log_prior.copy_(torch.tensor([0.01, 0.01, 0.01, 1.0, 0.3]).log())
    says = head.information(torch.tensor([100.0, 50.0, 0.0, 100.0, 100.0]), 100).tolist()
    assert says[3] == 0
    assert says[0] < says[1] < says[2]
    assert head.information(torch.zeros(5), 0)[0].item() == pytest.approx(math.log(1.01 / 0.02), abs=1e-6)
    many = head.information(torch.tensor([1e7, 0.0, 0.0, 0.0, 0.0]), 10**7)
    assert many[0].item() == pytest.approx(0, abs=1e-4), "a large context outweighs the prior"


def test_projected_term_weights_keep_their_cosine():
    """Expectation exact, standard deviation 1 / sqrt(m) or less; 200 pairs, five standard deviations allowed."""
    rng = np.random.default_rng(0)
    signs = token_signs(2000, 1024).numpy().astype(np.float64) / math.sqrt(1024)
    errors = []
    for _ in range(200):
        x, y = (np.where(rng.random(2000) < 0.02, rng.random(2000), 0.0) for _ in range(2))
        y = np.where(rng.random(2000) < 0.5, x, y)
        exact = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
        u, v = x @ signs, y @ signs
        errors.append(u @ v / np.linalg.norm(u) / np.linalg.norm(v) - exact)
    assert abs(np.mean(errors)) < 5 / math.sqrt(200 * 1024)
    assert np.std(errors) < 1.2 / math.sqrt(1024)


def test_signs_are_the_same_everywhere():
    """They are part of every stored vector: another value here is another model under the same hash."""
    signs = token_signs(1000, 384)
    assert signs.dtype == torch.int8
    assert set(signs.unique().tolist()) == {-1, 1}
    assert (
        hashlib.sha256(signs.numpy().tobytes()).hexdigest()
        == "cc4632b3acde7d2888e2227be5f42dcacdfd7fcf8f149d1d94c64c7e3e269ca7"
    )
    assert token_signs(10, 12).shape == (10, 12)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_batches_padding_and_dtypes(tmp_path, dtype):
    folder = term_encoder().save_pretrained(tmp_path / "model")
    encoder = ContextualEncoder.from_pretrained(folder, device="cpu", dtype=dtype)
    encoder.fit_context(documents(100))
    texts = [*documents(9, seed=4), "", "baron"]
    whole = encoder.encode_documents(texts)
    single = np.concatenate([encoder.encode_documents([text]) for text in texts])
    tolerance = {"float32": 1e-5, "bfloat16": 0.05, "float16": 0.01}[dtype]
    np.testing.assert_allclose(whole, single, atol=tolerance, rtol=0)
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-5)


def test_without_learned_numbers_pooling_is_the_plain_mean():
    encoder = term_encoder(sketch_width=0)
    second = encoder.open_model().second_stage
    second.moment_head.load_state_dict(type(second.moment_head)(32).state_dict())
    fresh = TermHead(encoder.vocabulary_size, 32, 0)
    fresh.power.data.zero_()
    fresh.power_by_length.data.zero_()
    second.term_head.load_state_dict(fresh.state_dict())
    encoder.fit_context(documents(50))
    texts = documents(5, seed=3)
    np.testing.assert_allclose(encoder.encode_documents(texts), plain_vectors(encoder, texts), atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize("case", ["tokens", "vectors", "null", "dropped", "shared"])
def test_gradients_equal_plain_autograd(case, size):
    encoder = term_encoder(share_backbone=case == "shared")
    model = encoder.open_model().double()
    model.requires_grad_(True)
    tokenize = encoder.tokenize
    queries = tokenize([text[:20] for text in documents(5, seed=1)], "query").ids
    texts = tokenize(documents(5, seed=2, words=20), "document").ids
    context = [] if case == "null" else tokenize(documents(9, seed=3), "document").ids
    dropped = torch.arange(len(context)) % 3 == 1 if case == "dropped" else None
    counted = [ids for i, ids in enumerate(context) if dropped is None or not dropped[i]]
    frequencies = torch.zeros(encoder.vocabulary_size, dtype=torch.float64)
    for ids in counted:
        frequencies[sorted(set(ids))] += 1
    if case == "vectors":
        with torch.no_grad():
            context = model.first_stage(*map(torch.as_tensor, encoder.text_tokenizer().pad(context)))
    mask = torch.zeros(5, 5, dtype=torch.bool)
    batch = TwoStageBatch(queries, texts, context, mask, dropped, frequencies)
    found = []
    for step in (cached_step, direct_step):
        model.zero_grad(set_to_none=True)
        loss = step(model, batch, 0.05, Chunking(encoder.text_tokenizer().pad, size)).loss.item()
        found.append((loss, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}))
    (cached, got), (direct, expected) = found
    assert cached == pytest.approx(direct, abs=1e-10)
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (got[name] - gradient).abs().max() <= 1e-10 * max(1.0, gradient.abs().max().item()), name
    head = {name for name in expected if ".term_head." in name}
    assert len(head) == 10
    unmoved = {name for name in head if expected[name].abs().max() < 1e-9}
    assert unmoved == ({"second_stage.term_head.log_documents"} if case == "null" else set())


# The context


def test_a_context_counts_documents_and_survives_its_file(tmp_path):
    encoder = term_encoder()
    corpus = ["baron lulak", "baron baron", "kosim"]
    context = encoder.fit_context(corpus)
    names = {encoder.tokenizer.id_to_token(token): count for token, count in context.frequencies.tolist()}
    assert names == {"[CLS]": 3, "[SEP]": 3, "baron": 2, "lulak": 1, "kosim": 1}
    assert not context.frequencies.flags.writeable
    loaded = Context.load(context.save(tmp_path / "context.safetensors"))
    np.testing.assert_array_equal(loaded.frequencies, context.frequencies)
    twin = encoder.fork()
    twin.set_context(loaded)
    np.testing.assert_array_equal(twin.encode_documents(["baron kosim"]), encoder.encode_documents(["baron kosim"]))


def test_hashes_alone_are_enough(tmp_path):
    encoder = term_encoder()
    context = encoder.fit_context(documents(80), store_texts=False)
    before = encoder.encode_queries(["baron kosim"])
    encoder.set_context(Context.from_bytes(context.to_bytes()))
    np.testing.assert_array_equal(encoder.encode_queries(["baron kosim"]), before)


def test_damaged_statistics_are_refused():
    encoder = term_encoder()
    context = encoder.fit_context(documents(80))
    data = bytearray(context.to_bytes())
    place = data.find(context.frequencies.tobytes())
    assert place > 0
    once = int(np.flatnonzero(context.frequencies[:, 1] == 1)[0])
    data[place + 16 * once + 8] = 2  # of a token that occurs in one document
    with pytest.raises(ContextFormatError, match="does not match its own fingerprint"):
        Context.from_bytes(bytes(data))
    sample = sample_documents(["a", "b"], 4, 0)
    for wrong, message in (([[3, 5]], "occur in 5 documents, but the context has 2"), ([[3]], "pairs of token id")):
        with pytest.raises(ContextError, match=message):
            make_context(
                sample,
                np.eye(2, dtype=np.float32),
                encoder.identity,
                store_texts=True,
                needs=None,
                frequencies=np.array(wrong),
            )


def test_a_word_of_the_corpus_weighs_less_in_it():
    """The reason for all this: in a corpus about barons, "baron" finds nothing, and the other word decides."""
    encoder = term_encoder()
    head = encoder.open_model().second_stage.term_head
    head.load_state_dict(TermHead(encoder.vocabulary_size, 32, SKETCH).state_dict())
    about = {"baron": 0.0, "kosim": 0.0}
    for word in about:
        encoder.fit_context([f"{word} {text}" for text in documents(60)])
        query, first, second = encoder.encode_queries(["baron kosim", "baron", "kosim"])
        about[word] = float(query[32:] @ first[32:] - query[32:] @ second[32:])
    assert about["baron"] < 0 < about["kosim"]


# Checkpoints and training


def test_shared_stages_are_stored_once(tmp_path):
    start = StartConfig("s", context_attention="late", term_statistics=True, sketch_width=SKETCH, share_backbone=True)
    encoder = start_from(plain_encoder(tmp_path / "plain"), start)
    assert encoder.open_model().first_stage.backbone is encoder.open_model().second_stage.backbone
    folder = encoder.save_pretrained(tmp_path / "model")
    loaded = ContextualEncoder.from_pretrained(folder, device="cpu")
    assert loaded.open_model().first_stage.backbone is loaded.open_model().second_stage.backbone
    assert not any(name.startswith("first_stage.backbone") for name in loaded.open_model().stored_state())
    for one in (encoder, loaded):
        one.fit_context(documents(60))
    texts = documents(4, seed=2)
    np.testing.assert_array_equal(loaded.encode_documents(texts), encoder.encode_documents(texts))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"term_statistics": True}, "term_statistics is true, which needs context_attention 'late'"),
        ({"share_backbone": True}, "share_backbone is true, which needs context_attention 'late'"),
        ({"context_attention": "late", "context_moments": False}, "leaves 'late' without a context"),
        ({"context_attention": "late", "sketch_width": 64}, "sketch_width is 64, which needs term_statistics"),
        ({"context_attention": "late", "term_shrinkage": 0.3}, "term_shrinkage is 0.3, which needs term_statistics"),
        (
            {"context_attention": "late", "term_statistics": True, "term_shrinkage": 1.0},
            "term_shrinkage is 1.0, expected at least 0 and less than 1",
        ),
        (
            {"context_attention": "late", "term_statistics": True, "sketch_width": 12},
            "sketch_width is 12, expected a multiple of 8",
        ),
    ],
)
def test_contradicting_settings_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        tiny_encoder(**values)


def pairs(count=24):
    texts = documents(count, seed=8)
    return [TrainingPair(query=f"{text[:12]} baron", document=text, domain="d") for text in texts]


def test_the_prior_is_the_mean_over_domains(tmp_path):
    encoder = start_from(
        plain_encoder(tmp_path / "plain"), StartConfig("s", context_attention="late", term_statistics=True)
    )
    data = [
        TrainingPair("q1", "baron kosim", domain="a"),
        TrainingPair("q2", "baron lulak", domain="a"),
        TrainingPair("q3", "lulak", domain="b"),
    ]
    estimate_prior(encoder, documents_by_domain(data))
    prior = encoder.open_model().second_stage.term_head.log_prior.exp()
    shares = {word: prior[encoder.tokenizer.token_to_id(word)].item() for word in ("baron", "lulak", "kosim", "[CLS]")}
    assert shares == pytest.approx({"baron": 0.5, "lulak": 0.75, "kosim": 0.25, "[CLS]": 1.0}, abs=1e-6)
    assert prior.min().item() == pytest.approx(LEAST_SHARE, rel=1e-4)
    kept = encoder.open_model().second_stage.term_head.log_prior.clone()
    estimate_prior(encoder, documents_by_domain(data[:1]))
    assert torch.equal(encoder.open_model().second_stage.term_head.log_prior, kept), "a prior that is there stays"


def test_batches_count_the_documents_that_are_not_dropped():
    encoder = term_encoder()
    config = TrainConfig(steps=1, batch_size=12, context_sizes=(10, 10), context_dropout=0.4, null_rate=0.0)
    data = TrainingSet(pairs(), np.arange(24).reshape(2, 12))
    batch = BatchBuilder(data, config, encoder.text_tokenizer(), vocabulary=encoder.vocabulary_size).build(0)
    assert 0 < batch.dropped.sum() < 10
    kept = [ids for ids, gone in zip(batch.context, batch.dropped.tolist(), strict=True) if not gone]
    expected = torch.zeros(encoder.vocabulary_size)
    for ids in kept:
        expected[sorted(set(ids))] += 1
    assert torch.equal(batch.frequencies, expected)
    assert BatchBuilder(data, config, encoder.text_tokenizer()).build(0).frequencies is None


def test_training_moves_the_head_and_leaves_a_shared_encoder_alone(tmp_path):
    start = StartConfig("s", context_attention="late", term_statistics=True, sketch_width=SKETCH, share_backbone=True)
    encoder = start_from(plain_encoder(tmp_path / "plain"), start)
    before = {name: tensor.clone() for name, tensor in encoder.open_model().stored_state().items()}
    config = TrainConfig(steps=3, batch_size=12, chunk_size=5, context_sizes=(4, 10), warmup_steps=0, save_steps=3)
    config = replace(config, train_backbone=False)
    train(encoder, TrainingSet(pairs(), np.arange(24).reshape(2, 12).repeat(2, axis=0)), config, tmp_path / "run")
    moved = {
        name for name, tensor in encoder.open_model().stored_state().items() if not torch.equal(tensor, before[name])
    }
    assert moved
    assert all("_head." in name for name in moved)
    assert {f"second_stage.term_head.{name}" for name in ("power", "mix", "log_documents", "log_prior")} <= moved


@pytest.mark.parametrize("change", [{"lora_rank": 2}, {}])
def test_a_shared_encoder_under_moments_stays_as_it_is(tmp_path, change):
    encoder = term_encoder(share_backbone=True)
    config = TrainConfig(steps=1, batch_size=12, **change)
    with pytest.raises(ValueError, match="whose head stands on a first stage that stays as it is"):
        train(encoder, TrainingSet(pairs(), np.arange(24).reshape(2, 12)), config, tmp_path / "run")


@pytest.mark.parametrize("change", [{"lora_rank": 2}, {}])
def test_a_shared_encoder_without_moments_is_trained_whole_or_by_updates(tmp_path, change):
    encoder = term_encoder(share_backbone=True, context_moments=False)
    base = encoder.save_pretrained(tmp_path / "base")
    encoder = ContextualEncoder.from_pretrained(base, device="cpu")
    before = encoder.encode_first_stage(["baron kosim"])
    config = TrainConfig(steps=2, batch_size=12, context_sizes=(4, 10), warmup_steps=0, save_steps=2, **change)
    train(encoder, TrainingSet(pairs(), np.arange(24).reshape(2, 12)), config, tmp_path / "run")
    after = encoder.encode_first_stage(["baron kosim"])
    assert np.abs(after - before).max() > 1e-6
    folder = tmp_path / "trained"
    if "lora_rank" in change:
        write_low_rank(folder, encoder, base)
    else:
        encoder.save_pretrained(folder)
    loaded = ContextualEncoder.from_pretrained(folder, device="cpu")
    np.testing.assert_allclose(loaded.encode_first_stage(["baron kosim"]), after, atol=1e-5)
    for one in (encoder, loaded):
        one.set_context(one.null_context())
    np.testing.assert_allclose(loaded.encode_queries(["lulak"]), encoder.encode_queries(["lulak"]), atol=1e-5)

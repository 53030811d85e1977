"""What is no encoder, or not a whole one, is refused with a sentence that names it and the way out."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers.base.modules import Dense

from cde_retriever.checkpoint.finite import refuse_unreal
from cde_retriever.checkpoint.kinds import weight_files
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.errors import CheckpointError, ConfigError
from tests.permissions import refuse
from tests.plain_models import save_model, save_transformer
from tests.tiny import tiny_checkpoint


@pytest.fixture
def folder(tmp_path):
    save_model(tmp_path)
    return tmp_path / "model"


def refused(folder, message, **said):
    with pytest.raises((CheckpointError, ConfigError), match=message) as caught:
        ContextualEncoder.from_pretrained(folder, device="cpu", **said)
    assert str(caught.value).count("\n") == 0
    assert len(str(caught.value)) < 700


def write(path, **values):
    there = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**there, **values}))


def test_gguf(tmp_path):
    (tmp_path / "model-q4.gguf").write_bytes(b"GGUF")
    refused(tmp_path, "holds GGUF weights, the format of llama.cpp.*name the model they were made from")


@pytest.mark.parametrize("index", [None, {"weight_map": {"a": "model.safetensors"}}])
def test_weights_that_may_not_be_read_are_not_said_to_be_missing(tmp_path, monkeypatch, index):
    (tmp_path / "model.safetensors").write_bytes(b"")
    if index:
        write(tmp_path / "model.safetensors.index.json", **index)
    refuse(monkeypatch, Path, "open", lambda file: file.suffix == ".safetensors")
    with pytest.raises(PermissionError, match=r"model\.safetensors"):
        weight_files(tmp_path)


def test_an_adapter_alone(folder):
    write(folder / "adapter_config.json", base_model_name_or_path="org/base")
    refused(folder, "holds an adapter of 'org/base' and not the whole model; merge them first.*merge_and_unload")


@pytest.mark.parametrize(
    ("kind", "said"),
    [("CrossEncoder", "a cross-encoder"), ("SparseEncoder", "a sparse"), ("MultiVectorEncoder", "a multi")],
)
def test_other_models_of_sentence_transformers(folder, kind, said):
    write(folder / "config_sentence_transformers.json", model_type=kind)
    refused(folder, f"holds {said}.*name an encoder")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("sentence_transformers.sparse_encoder.models.SpladePooling", "a sparse encoder"),
        ("sentence_transformers.models.CLIPModel", "a model of images and texts"),
        ("custom_st.Transformer", "needs custom_st.Transformer, code of its own, which is never run here"),
        ("sentence_transformers.models.LSTM", "holds LSTM, which is not understood; understood are Transformer, "),
    ],
)
def test_other_modules(folder, name, said):
    listed = json.loads((folder / "modules.json").read_text())
    listed[1]["type"] = name
    (folder / "modules.json").write_text(json.dumps(listed))
    refused(folder, said)


def test_a_cross_encoder_of_transformers(tmp_path):
    write(save_transformer(tmp_path, "bert") / "config.json", architectures=["BertForSequenceClassification"])
    refused(tmp_path, r"holds a cross-encoder.*\(BertForSequenceClassification\)", pooling="cls")


def test_clip(tmp_path):
    write(tmp_path / "config.json", model_type="clip", architectures=["CLIPModel"])
    refused(tmp_path, r"a model of images and texts \(CLIPModel\)", pooling="cls")


def test_remote_code_only(folder):
    write(folder / "config.json", model_type="new", auto_map={"AutoModel": "modeling.NewModel"})
    refused(
        folder, "type 'new' .*not understood. It needs code of its own, which is never run here. Understood are albert"
    )


def test_another_network_under_a_known_name(folder):
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "encoder.layer.0.mlp.gated.weight": torch.ones(2)}, folder / "model.safetensors")
    refused(folder, "holds 1 weights that a bert encoder does not have, such as encoder.layer.0.mlp.gated.weight")


def test_missing_weights(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layer.1.output.dense.bias"]
    save_file(weights, folder / "model.safetensors")
    refused(folder, "lacks 1 weights of its bert encoder, such as encoder.layer.1.output.dense.bias")


def test_weights_of_another_shape(folder):
    write(folder / "config.json", intermediate_size=40)
    refused(
        folder, r"holds encoder\.layer\.0\.intermediate\.dense\.bias of shape \(48,\), but its config.json says \(40,"
    )
    (folder / "config.json").unlink()
    refused(folder, "model has no config.json, which says what its weights are of; copy the whole model")


@pytest.mark.parametrize(("file", "said"), [("1_Pooling/config.json", "no config.json"), ("modules.json", "damaged")])
def test_missing_and_damaged_configurations(folder, file, said):
    if said == "damaged":
        (folder / file).write_text("[{")
    else:
        (folder / file).unlink()
    refused(folder, said)


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("2_Dense/config.json", {"out_features": 16}),
        ("sentence_bert_config.json", {"max_seq_length": "long"}),
        ("1_Pooling/config.json", {"pooling_mode": 7}),
        ("config_sentence_transformers.json", {"prompts": ["query: "]}),
    ],
)
def test_strange_values_in_configurations(tmp_path, file, values):
    save_model(tmp_path, layers=[Dense(32, 16)])
    (tmp_path / "model" / file).write_text(json.dumps(values))
    refused(tmp_path / "model", "a configuration in .* is damaged .*; copy it again")


def test_no_pooling_at_all(folder):
    listed = [module for module in json.loads((folder / "modules.json").read_text()) if "Pooling" not in module["type"]]
    (folder / "modules.json").write_text(json.dumps(listed))
    refused(folder, "holds no Pooling; nothing says how token vectors become one")


def test_an_encoder_of_transformers_without_pooling(tmp_path):
    save_transformer(tmp_path, "bert")
    refused(tmp_path, "does not say how its token vectors become one; give pooling=, one of cls, max")
    refused(tmp_path, "pooling is 'median', expected one of cls", pooling="median")


def test_tokenizer_of_another_model(folder, tmp_path):
    save_transformer(tmp_path / "other", "bert", "bpe")
    (folder / "tokenizer.json").write_bytes((tmp_path / "other/tokenizer.json").read_bytes())
    refused(folder, r"gives token ids up to \d+, but the model knows 127 tokens; restore the tokenizer")


def test_no_tokenizer(folder):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    refused(folder, "has no tokenizer; expected one of tokenizer.json")
    (folder / "tokenizer.json").write_text("{}")
    refused(folder, r"tokenizer\.json is no tokenizer that can be read .*; copy it again")
    (folder / "tokenizer_config.json").write_text("{}")
    refused(folder, "cannot read the tokenizer .*; copy its tokenizer files again")


def test_integers(folder):
    weights = load_file(folder / "model.safetensors")
    weights["encoder.layer.0.output.dense.weight"] = torch.ones(32, 48, dtype=torch.int8)
    save_file(weights, folder / "model.safetensors")
    refused(folder, "holds encoder.layer.0.output.dense.weight in I8; expected float weights")


def test_quantised(folder):
    write(folder / "config.json", quantization_config={"quant_method": "bitsandbytes"})
    refused(folder, "holds weights quantised with bitsandbytes; name the model with float weights")


def test_a_pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(folder, "holds pytorch_model.bin only; only safetensors.*python -c .*save_pretrained")


def test_other_formats_only(folder):
    (folder / "model.safetensors").rename(folder / "tf_model.h5")
    refused(folder, r"has no model.safetensors \(but .h5\)")


@pytest.mark.parametrize("name", ["../other/model.safetensors", "/other/model.safetensors", "a/../../b.safetensors"])
def test_weights_outside_the_folder(folder, name):
    (folder / "model.safetensors").unlink()
    write(folder / "model.safetensors.index.json", weight_map={"embeddings.weight": name})
    refused(folder, f"the index of the weights in .* names {name}, outside the model's folder")


def test_modules_outside_the_folder(folder):
    listed = json.loads((folder / "modules.json").read_text())
    listed[1]["path"] = "../1_Pooling"
    (folder / "modules.json").write_text(json.dumps(listed))
    refused(folder, r"modules\.json names .*\.\./1_Pooling, outside the model's folder")


def test_a_missing_part_of_the_weights(folder):
    (folder / "model.safetensors").unlink()
    write(folder / "model.safetensors.index.json", weight_map={"a": "model-00001-of-00001.safetensors"})
    refused(folder, "lacks model-00001-of-00001.safetensors, which its index names")


@pytest.mark.parametrize("keep", [0, 5, 200, -9])
def test_damaged_weights(folder, keep):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    refused(folder, "damaged")


def test_a_chat_template_and_unknown_settings(folder):
    write(folder / "sentence_bert_config.json", modality_config={"message": {}, "text": {}})
    refused(folder, "takes message, text; only plain text is read here, without chat templates")
    write(folder / "sentence_bert_config.json", modality_config={"text": {}}, query_length=32)
    refused(folder, "says query_length 32, which is not understood")


def test_a_similarity_that_is_not_understood(tmp_path):
    save_model(tmp_path, normalize=False)
    write(tmp_path / "model/config_sentence_transformers.json", similarity_fn_name="euclidean")
    refused(
        tmp_path / "model", "compares vectors by 'euclidean', and here they are compared by cosine or inner product"
    )


def test_what_is_said_and_does_not_fit(folder, tmp_path):
    refused(folder, "max_length is 100, but .* reads 66 tokens at most", max_length=100)
    for length in ("64", 9.5, True):
        with pytest.raises(TypeError, match=f"max_length must be a whole number, received {length!r}"):
            ContextualEncoder.from_pretrained(folder, max_length=length)
    refused(folder, r"says itself how it pools \(mean\), received pooling 'cls'", pooling="cls")
    refused(folder, "variant is 'trained', but .* holds none of the authors' own weights.*leave", variant="trained")
    refused(folder, "prompts has the keys .'passage'., expected some of", prompts={"passage": "x"})
    refused(
        tiny_checkpoint(tmp_path / "ours"),
        "is a CDE checkpoint or export, whose config.json says pooling",
        pooling="cls",
    )


@pytest.mark.parametrize(
    ("file", "tensor"),
    [("model.safetensors", "encoder.layer.1.output.dense.weight"), ("2_Dense/model.safetensors", "linear.bias")],
)
@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_weights_that_are_no_numbers(tmp_path, file, tensor, number, similarity):
    save_model(tmp_path, layers=[Dense(32, 16)], normalize=False)
    write(tmp_path / "model/config_sentence_transformers.json", similarity_fn_name=similarity)
    weights = load_file(tmp_path / "model" / file)
    weights[tensor].view(-1)[3] = number
    save_file(weights, tmp_path / "model" / file, metadata={"format": "pt"})
    refused(tmp_path / "model", rf"model holds NaN or infinity in .*{tensor}, so every vector .*; if it was trained")


def test_a_checkpoint_of_a_training_that_diverged(tmp_path):
    folder = tiny_checkpoint(tmp_path / "ours")
    weights = load_file(folder / "model.safetensors")
    weights["first_stage.backbone.encoder.layer.0.output.dense.bias"][0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, r"ours holds NaN or infinity in first_stage\.backbone\.encoder\.layer\.0\.output\.dense\.bias")


def test_large_weights_are_numbers(tmp_path):
    weight = torch.full((4,), 3e38)
    refuse_unreal(tmp_path, [("weight", weight), ("places", torch.zeros(2, dtype=torch.long))])
    assert weight.sum().isinf()


def test_nothing_there(tmp_path):
    refused(tmp_path, "has no config.json and no modules.json; expected a CDE checkpoint")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("RepositoryNotFoundError", "'org/model' is neither a folder nor a model on the Hub, unless it is private"),
        ("GatedRepoError", "'org/model' is gated; accept its terms on its page and run: hf auth login"),
        ("RevisionNotFoundError", "'org/model' has no revision 'v9' on the Hub"),
        (
            "LocalEntryNotFoundError",
            "'org/model' is no folder, and it is neither in the Hub's cache on this machine nor",
        ),
    ],
)
def test_the_hub(monkeypatch, error, said):
    import httpx
    import huggingface_hub
    from huggingface_hub import errors

    def fail(*_, **__):
        kind = getattr(errors, error)
        if error == "LocalEntryNotFoundError":
            raise kind("cannot find it in the cache")
        raise kind("404", response=httpx.Response(404, request=httpx.Request("GET", "https://hub.invalid")))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    refused("org/model", said, revision="v9")


def test_names_that_are_no_names():
    refused("./nope/deep/folder", "there is no folder './nope/deep/folder'")
    refused("x" * 5000, "is no name of a folder")

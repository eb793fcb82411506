"""Where files and values of others come in. Each door takes a generator, damages a good input in a folder of its own,
and uses it as a user would.
"""

import base64
import io
import json
import pickle
import shutil
import sys
import zipfile
from functools import partial
from pathlib import Path
from unittest import mock

import click
import numpy as np
import onnx
import torch
from damage import NUMBERS, VALUES, WORDS, some_bytes, some_text, some_tree, some_value
from datafiles import database, encoded, retrieval, text
from materials import listed, put
from PIL import Image
from programs import SIGNATURE as PROGRAM_SIGNATURE
from programs import feeds as program_feeds
from programs import tampered
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from safetensors.torch import load_file, save_file

import torchlift as tl
from torchlift.archive import pack
from torchlift.backends.pytorch.program import load_program
from torchlift.backends.pytorch.session import TorchSession
from torchlift.bundle import Bundle
from torchlift.cli import main
from torchlift.datasets import ReadOptions, open_data
from torchlift.declare.inputs import ImageInput
from torchlift.errors import TorchliftError
from torchlift.families.base import LoadOptions
from torchlift.families.chinese_clip import ChineseClip
from torchlift.families.mobilevit import MobileViTFamily
from torchlift.processing.image import prepared
from torchlift.prove.verify import verify_variant
from torchlift.stages import build_variant
from torchlift.stages.convert import convert_component
from torchlift.stages.samples import data_as_samples, goldens_as_samples

TEXTS = ("猫", "a cat", "一只红色的狗")


class TracedError(AssertionError):
    """A command ended in a traceback, or in another status than it may."""


def torchlift(*arguments):
    """Run the command line. Raises click's usage error for wrong usage, TorchliftError for an error."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    code = 0
    with (
        mock.patch.object(sys, "argv", ["torchlift", *map(str, arguments)]),
        mock.patch.object(sys, "stdout", out),
        mock.patch.object(sys, "stderr", err),
    ):
        try:
            main()
        except SystemExit as status:
            code = status.code or 0
    said, printed = err.buffer.getvalue().decode(), out.buffer.getvalue().decode()
    if "Traceback" in said or code not in (0, 1, 2, 3):
        raise TracedError(f"torchlift {arguments} ended with {code}:\n{said}")
    if code == 2:
        raise click.UsageError(said)
    if code:
        raise TorchliftError(said, remedy="said")
    return printed


def use_bundle(draw, bundle, folder):
    """What a user does with a bundle."""
    match draw.randrange(6):
        case 0:
            run(bundle, draw)
        case 1:
            torchlift("inspect", bundle, *draw.choice([(), ("--json",)]))
        case 2:
            torchlift("verify", bundle)
        case 3:
            pack(bundle, folder / "packed.zip")
        case 4:
            opened = Bundle.open(bundle, mending=True)
            for component in opened.manifest.components:
                build_variant(opened, component, draw.choice(["onnxruntime", "openvino"]))
        case 5:
            opened = Bundle.open(bundle)
            for variant in opened.manifest.variants:
                verify_variant(opened, variant)


def run(bundle, draw):
    """Give a bundle inputs."""
    with tl.open(bundle) as pipeline:
        if hasattr(pipeline, "encode_text"):
            pipeline.classify([encoded()], TEXTS[:2])
            pipeline.encode_text(TEXTS, size=draw.choice([None, 1, 2]))
        else:
            pipeline({spec.name: sample(spec) for spec in pipeline.signature.inputs})


def sample(spec, rows=2):
    """Zeros of a tensor's shape, axes being ``rows`` long."""
    return np.zeros([rows if isinstance(dim, str) else min(dim or 1, 10**4) for dim in spec.shape], spec.dtype)


def manifests(draw, folder, have):
    bundle = have.bundle(draw, folder)
    file = bundle / "manifest.json"
    if draw.random() < 0.25:
        file.write_bytes(some_bytes(draw, file.read_bytes()))
    else:
        manifest = json.loads(file.read_bytes())
        manifest["version"] = draw.choice([1, 2, 2, 2, 2, 2])
        some_tree(draw, draw.choice([manifest, manifest, manifest["components"], manifest["settings"]]))
        file.write_bytes(json.dumps(manifest).encode("utf-8", "surrogatepass"))
    use_bundle(draw, bundle, folder)


def goldens(draw, folder, have):
    bundle = have.bundle(draw, folder)
    path = draw.choice(listed(bundle, "goldens.safetensors"))
    data = (bundle / path).read_bytes()
    if draw.random() < 0.4:
        data = some_bytes(draw, data)
    else:
        arrays = {name: array.copy() for name, array in load_arrays(data).items()}
        name = draw.choice([*arrays])
        match draw.randrange(6):
            case 0:
                del arrays[name]
            case 1:
                arrays[draw.choice(["min/inputs/y", "min", "", "a/b/c", "opt/outputs/"])] = arrays.pop(name)
            case 2:
                arrays[name] = arrays[name].astype(draw.choice(["float16", "int64", "bool", "float64", "uint8"]))
            case 3:
                arrays[name] = np.ascontiguousarray(draw.choice([arrays[name][:0], arrays[name][None], arrays[name].T]))
            case 4:
                arrays[name].flat[draw.randrange(max(1, arrays[name].size))] = draw.choice([0, 1, 120])
            case 5 if arrays[name].dtype.kind == "f":
                arrays[name][...] = draw.choice([0, np.nan, np.inf, 1e38, 1e-30])
        data = save_arrays(arrays)
    put(bundle, path, data)
    use_bundle(draw, bundle, folder)


def graphs(draw, folder, have):
    bundle = have.bundle(draw, folder)
    path = draw.choice(
        listed(bundle, ".onnx") + listed(bundle, ".data") + listed(bundle, ".xml") + listed(bundle, ".bin")
    )
    data = (bundle / path).read_bytes()
    if path.endswith(".onnx") and draw.random() < 0.75:
        proto = onnx.load_model_from_string(data)
        for _ in range(draw.choice([1, 1, 2])):
            _change_graph(draw, proto)
        data = proto.SerializeToString()
    else:
        data = some_bytes(draw, data)
    put(bundle, path, data)
    opened = Bundle.open(bundle)
    component = draw.choice(opened.manifest.components)
    match draw.randrange(4):
        case 0:
            build_variant(opened, component, draw.choice(["onnxruntime", "openvino"]))
        case 1:
            form = draw.choice(["fp16", "int8-u8s8", "int8-s8s8", "int8-dynamic"])
            convert_component(opened, component, [form], goldens_as_samples(opened))
        case _:
            use_bundle(draw, bundle, folder)


def _change_graph(draw, proto):
    graph = proto.graph
    node, other = draw.choice(graph.node), draw.choice(graph.node)
    names = [name for each in graph.node for name in (*each.input, *each.output) if name]
    match draw.randrange(14):
        case 0:
            graph.node.remove(node)
        case 1 if node.input:
            node.input[draw.randrange(len(node.input))] = draw.choice([*names, "", "no such tensor"])
        case 2 if node.output:
            node.output[draw.randrange(len(node.output))] = draw.choice([*names, "", "no such tensor"])
        case 3:
            node.op_type = draw.choice([other.op_type, "", "NoSuchOperator", "Relu", "Loop", "NonZero", "Expand", "If"])
        case 4:
            node.domain = draw.choice(["", "com.microsoft", "nowhere", "ai.onnx.ml"])
        case 5:
            graph.node.append(node)
        case 6:
            del node.attribute[:]
        case 7 if node.attribute:
            attribute = draw.choice(node.attribute)
            attribute.i = draw.choice([0, -1, 2**31, 2**62, -(2**62)])
            attribute.ints[:] = [draw.choice([0, -1, 2, 2**31, 2**62]) for _ in range(draw.randrange(5))]
        case 8 if graph.initializer:
            weight = draw.choice(graph.initializer)
            weight.dims[:] = draw.choice([[], [0], [-1], [2**40, 2**40], [*weight.dims, 1], [*weight.dims][::-1]])
        case 9 if graph.initializer:
            weight = draw.choice(graph.initializer)
            weight.data_type = draw.choice([0, 1, 7, 9, 10, 16, 17, 23, 99])
        case 10 if graph.initializer:
            weight = draw.choice(graph.initializer)
            for entry in weight.external_data:
                entry.value = draw.choice([entry.value, "0", "-1", "99999999999", "", "x", "../x", "/etc/passwd"])
            if not weight.external_data:
                weight.raw_data = some_bytes(draw, weight.raw_data)
        case 11:
            for opset in proto.opset_import:
                opset.version = draw.choice([0, 1, 7, 13, 99, -1])
        case 12:
            value = draw.choice([*graph.input, *graph.output])
            value.name = draw.choice([*names, "", "z"])
        case 13:
            value = draw.choice([*graph.input, *graph.output])
            del value.type.tensor_type.shape.dim[:]


def programs(draw, folder, have):
    file = folder / "model.pt2"
    if draw.random() < 0.4:
        file.write_bytes(some_bytes(draw, (have.made / "model.pt2").read_bytes()))
    else:

        def change(records):
            name = draw.choice([*records])
            if isinstance(records[name], bytes):
                records[name] = some_bytes(draw, records[name])
            else:
                some_tree(draw, records[name])

        try:
            tampered(have.made / "model.pt2", file, change)
        except (RuntimeError, ValueError, TypeError):  # it cannot be written
            return
    with TorchSession(load_program(file), PROGRAM_SIGNATURE) as session:
        session.run(program_feeds(2))


def _load(draw, source, **options):
    """What ship does with a source before it exports it."""
    family = draw.choice([ChineseClip, MobileViTFamily]) if draw.random() < 0.1 else None
    if family is None:
        family = MobileViTFamily if "mobile" in Path(source).name else ChineseClip
    model = family().load(str(source), LoadOptions(**options))
    part = model.component(draw.choice(model.component_names))
    feeds = part.sample(part.signature.sizes("min"), np.random.default_rng(0))
    with torch.inference_mode():
        part.reference(*(torch.tensor(feeds[name]) for name in part.signature.input_names))


DTYPES = ("int8", "int64", "uint8", "bool", "float16", "bfloat16", "float64", "complex64", "float8_e4m3fn")


def _change_weights(draw, state):
    """Change some tensors of a state_dict, in place."""
    for _ in range(draw.choice([1, 1, 3])):
        name = draw.choice([*state])
        tensor = state[name]
        match draw.randrange(9):
            case 0:
                del state[name]
                if not state:
                    return
            case 1:
                state[draw.choice([f"{name}x", name.upper(), "", "layers.999999999.x", *WORDS])] = state.pop(name)
            case 2 | 3:
                state[name] = tensor.to(getattr(torch, draw.choice(DTYPES)))
            case 4:
                state[name] = draw.choice([tensor[None], tensor.flatten(), tensor.reshape(-1)[:0], torch.zeros(3, 5)])
            case 5:
                state[name] = torch.full_like(tensor, draw.choice([0, 1e4])) * draw.choice([1.0, np.nan, np.inf, 1e300])
            case 6:
                number = draw.choice(["7", "99", "999999999", "9" * 30])
                state[name.replace(".0.", f".{number}.").replace(".1.", f".{number}.")] = tensor
            case 7 if tensor.ndim == 2 and tensor.dtype == torch.float32:
                state[name] = draw.choice([tensor.to_sparse(), tensor.to("meta"), tensor.expand(2, *tensor.shape)])
            case 8:
                state[f"{name.rpartition('.')[0]}.weight_fake_quant.scale"] = torch.tensor(
                    draw.choice([0.0, 1.0, -1.0])
                )


def checkpoints(draw, folder, have):
    source = folder / draw.choice(["clip.pt", "clip.pt", "mobile.pth.tar", "clip", "mobile"])
    good = have.weights if source.name == "clip.pt" else have.made / source.name
    if good.is_dir():
        shutil.copytree(good, source)
        file = source / "model.safetensors"
        if draw.random() < 0.4:
            file.write_bytes(some_bytes(draw, file.read_bytes()))
        else:
            state = load_file(file)
            _change_weights(draw, state)
            try:
                save_file({name: tensor.contiguous() for name, tensor in state.items()}, file)
            except Exception:  # safetensors has no such tensors
                return
        if draw.random() < 0.1:
            file.rename(source / "pytorch_model.bin")
    else:
        shutil.copyfile(have.weights.parent / "vocab.txt", folder / "vocab.txt")
        if draw.random() < 0.4:
            source.write_bytes(some_bytes(draw, good.read_bytes()))
        else:
            content = torch.load(good, weights_only=True)
            _change_weights(draw, content["state_dict"])
            if draw.random() < 0.1:
                content["state_dict"][draw.choice([1, "x"])] = draw.choice([None, 1, "x", [], {}])
            torch.save(draw.choice([content, content["state_dict"]]), source)
            if draw.random() < 0.2:
                torch.save(content, source, _use_new_zipfile_serialization=False)
    _load(draw, source)


def configs(draw, folder, have):
    source = shutil.copytree(
        have.made / draw.choice(["clip", "mobile"]), folder / draw.choice(["source", "mobile-source"])
    )
    file = draw.choice([*source.glob("*.json")])
    if draw.random() < 0.2:
        file.write_bytes(some_bytes(draw, file.read_bytes()))
    elif draw.random() < 0.05:
        file.write_text('{"a":' * 100_000)
    else:
        content = json.loads(file.read_bytes())
        some_tree(draw, content)
        file.write_text(json.dumps(content))
    if (source / "vocab.txt").exists():
        source = source.rename(folder / "source-of-clip")
    else:
        source = source.rename(folder / "source-of-mobile")
    _load(draw, source)


def vocabularies(draw, folder, have):
    lines = (have.weights.parent / "vocab.txt").read_text().split("\n")
    match draw.randrange(6):
        case 0:
            lines.pop(draw.randrange(len(lines)))
        case 1:
            draw.shuffle(lines)
        case 2:
            lines.insert(draw.randrange(len(lines)), draw.choice(WORDS))
        case 3 | 4:
            lines[draw.randrange(len(lines))] = draw.choice([*WORDS, *lines])
        case 5:
            lines = draw.choice([[], [""], ["[PAD]"], lines * 3])
    data = "\n".join(lines).encode("utf-8", "surrogatepass")
    data = some_bytes(draw, data) if draw.random() < 0.3 else data
    if draw.random() < 0.4:
        (folder / "vocab.txt").write_bytes(data)
        _load(draw, have.weights, vocabulary=folder / "vocab.txt")
        return
    bundle = shutil.copytree(have.clip, folder / "bundle")
    put(bundle, next(iter(listed(bundle, "vocab.txt"))), data)
    with tl.open(bundle) as pipeline:
        pipeline.encode_text([*TEXTS, some_text(draw, "cat")])


def pictures(draw, folder, have):
    stream = io.BytesIO()
    mode = draw.choice(["RGB", "L", "P", "RGBA", "1", "CMYK", "I", "F", "LA", "I;16"])
    form = draw.choice(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "ICO", "PCX", "JPEG2000"])
    picture = Image.new(mode, (draw.randrange(1, 60), draw.randrange(1, 60)))
    try:
        picture.save(stream, form)
    except (OSError, ValueError, KeyError):  # the format has no such pictures
        stream = io.BytesIO(encoded())
    data = some_bytes(draw, stream.getvalue())
    fit, convert = draw.choice(["stretch", "crop", "letterbox"]), draw.choice(["first", "last"])
    prepare = partial(prepared, ImageInput((24, 24), fit=fit, convert=convert))
    file = folder / draw.choice(["a.png", "a.jpg", "a"])
    file.write_bytes(data)
    match draw.randrange(4):
        case 0:
            prepare(data)
        case 1:
            prepare(file)
        case 2:
            prepare(draw.choice([picture, b"", folder, folder / "none", None, 3, [], np.zeros((3, 0, 3), np.uint8)]))
        case 3:
            torchlift("run", have.clip, "--image", file, "--text", "猫", "--json")


def texts(draw, folder, have):
    given = [some_text(draw, draw.choice(TEXTS)) for _ in range(draw.choice([1, 2, 9]))]
    if draw.random() < 0.7:
        with tl.open(have.clip) as pipeline:
            features = pipeline.encode_text(draw.choice([given, tuple(given), given[0], [*given, draw.choice(VALUES)]]))
            assert np.isfinite(features).all()
    else:
        arguments = [part for each in given if "\0" not in each for part in ("--text", each)]
        torchlift("run", have.clip, *arguments, *draw.choice([(), ("--json",)]))


def data(draw, folder, have):
    source, kind = folder / "data", draw.choice(["retrieval", "labelled", "records", "lmdb", "arrays", "lines"])
    source.mkdir()
    images = {number: encoded(number) for number in range(4)}
    if kind == "retrieval":
        retrieval(source, images, [text(n, [n % 4]) for n in range(6)])
    elif kind == "labelled":
        for number, picture in images.items():
            (source / f"class{number % 2}").mkdir(exist_ok=True)
            (source / f"class{number % 2}" / f"{number}.png").write_bytes(picture)
        (source / "label_cn.txt").write_text("猫\n狗\n")
    elif kind == "records":
        label = draw.choice([1, 1, 2**70, -1, "x"])
        database(source / "set", {str(n).encode(): pickle.dumps((picture, label)) for n, picture in images.items()})
        source = source / "set"
    elif kind == "lmdb":
        pairs = [(n % 4, n, "猫") for n in range(5)]
        database(source / "lmdb" / "valid" / "imgs", {str(n).encode(): base64.b64encode(p) for n, p in images.items()})
        database(source / "lmdb" / "valid" / "pairs", {str(i).encode(): pickle.dumps(p) for i, p in enumerate(pairs)})
    elif kind == "arrays":
        suffix = draw.choice([".npz", ".safetensors"])
        arrays = {"x": np.zeros((6, 32), draw.choice(["float32", "int64", "float16"]))}
        source = source / f"arrays{suffix}"
        if suffix == ".npz":
            np.savez(source, **arrays)
        else:
            source.write_bytes(save_arrays(arrays))
    else:
        source = source / draw.choice(["texts.txt", "texts.jsonl"])
        source.write_text("".join(json.dumps({"text": word}) + "\n" for word in TEXTS))
    if draw.random() < 0.85:
        file = draw.choice([source] if source.is_file() else [p for p in source.rglob("*") if p.is_file()])
        file.write_bytes(
            _lines(draw, file.read_bytes()) if draw.random() < 0.4 else some_bytes(draw, file.read_bytes())
        )
    _use_data(draw, source, have)


def _lines(draw, content):
    """Text with one line changed."""
    lines = content.split(b"\n")
    place = draw.randrange(len(lines))
    value = json.dumps(some_value(draw)).encode()
    line = b'{"text_id": %b, "text": %b, "image_ids": [%b]}' % (value, value, value)
    lines[place] = draw.choice([line, b"[" * 10**5, b"\xff", b"9" * 5001 + b"\tAAAA", lines[0], b"1\t", value])
    return b"\n".join(lines)


def _use_data(draw, source, have):
    strict, trust = draw.random() < 0.3, draw.random() < 0.5
    match draw.randrange(3):
        case 0:
            limit = draw.choice([None, 1, 3, 10**30])
            opened = open_data(source, ReadOptions(strict=strict, trust_pickle=trust, limit=limit))
            images = getattr(opened, "images", ())
            for position in range(len(images)):
                images.read(position)
        case 1:
            flags = ("--strict-data",) * strict + ("--trust-pickle",) * trust
            torchlift("score", draw.choice([have.clip, have.tiny]), "--data", source, "--report", *flags)
        case 2:
            bundle = Bundle.open(have.tiny)
            samples = data_as_samples(bundle, source, ReadOptions(strict=strict, trust_pickle=trust))
            samples.of(bundle.manifest.component("model"))


def archives(draw, folder, have):
    good = folder / "good.zip"
    pack(draw.choice([have.tiny, have.tiny, have.clip]), good)
    file = folder / "bundle.zip"
    if draw.random() < 0.5:
        file.write_bytes(some_bytes(draw, good.read_bytes()))
    else:
        with zipfile.ZipFile(good) as before, zipfile.ZipFile(file, "w") as after:
            chosen = draw.choice(before.namelist())
            for name in before.namelist():
                entry, content = zipfile.ZipInfo(name), before.read(name)
                if name == chosen:
                    change = draw.randrange(8)
                    entry.filename = (
                        draw.choice(["", "/", "a/", f"../{name}", f"/{name}", "\0", *WORDS[:9]])
                        if change == 0
                        else name
                    )
                    entry.external_attr = draw.choice([0o120777 << 16, 0o010644 << 16]) if change == 1 else 0
                    entry.compress_type = draw.choice([8, 12, 14]) if change == 2 else 0
                    content = some_bytes(draw, content) if change == 3 else content
                    if change == 4:
                        continue
                    if change == 5:
                        after.writestr(f"{name}x", content)
                if entry.filename:
                    after.writestr(entry, content)
                else:
                    _write_unnamed(after, content)
    torchlift("unpack", file, "-o", folder / "out", *draw.choice([(), ("--json",)]))


def _write_unnamed(archive, content):
    """An entry without a name: zipfile makes none by itself."""
    entry = zipfile.ZipInfo("a")
    entry.filename = entry.orig_filename = ""
    with mock.patch.object(zipfile.ZipInfo, "is_dir", return_value=False):
        archive.writestr(entry, content)


_COMMANDS = {
    "inspect": ("--batch", "--device", "--variant", "--layers", "--json"),
    "verify": ("--tolerance", "--threads", "--json"),
    "run": ("--image", "--text", "--input", "--variant", "--device", "--json"),
    "pack": ("-o", "--json"),
    "unpack": ("-o", "--json"),
    "build": ("--backend", "--precision", "--tolerance", "--within", "--objective", "--calibration", "--batch",
              "--keep", "--limit", "--split", "--data", "--profile", "--workspace", "--evaluations"),
    "score": ("--data", "--split", "--limit", "--prompts", "--within", "--objective", "--write", "--predictions",
              "--report", "--module", "--checkpoint"),
    "bench": ("--batch", "--rounds", "--size", "--devices", "--module", "--format"),
    "bisect": ("--top", "--data", "--evaluations", "--variant"),
    "export": ("-o", "--axis", "--checkpoint", "--vocabulary", "--resolution", "--opset", "--seed", "--exporter"),
    "ship": ("-o", "--axis", "--checkpoint", "--vocabulary", "--resolution", "--opset", "--seed", "--within"),
}  # fmt: skip

_FLAGS = ("--json", "--report", "--layers")


def options(draw, folder, have):
    command = draw.choice([*_COMMANDS])
    bundle = have.bundle(draw, folder)
    file, place = folder / "file", folder / "a" / "b"
    file.write_bytes(b"content")
    values = [
        *map(str, NUMBERS), *WORDS, file, folder, place, bundle, "/proc", "/proc/x/y", "/dev/null",
        folder / ("n" * 300), "batch=1..8..64", f"batch=1..{10**12}..{10**12}", "batch=0..1..2", "fp32=2",
        "text.sequence=4..16..99999999",
        "x=1..2..3", "batch=" + "9" * 5001, "fp32,int8", "fp64", "recall@1=0.2", "recall@1=-1", "top1=nan", "a/b/c",
        "bf16=0.02,0.999", "model:sum", "model:none", f"x={file}", "x=none.npy", "model/onnxruntime/fp32", "ok", "all",
        "image/openvino/fp32", "\udc80\udcff", "1,8", "1,,8", "1,x", "onnxruntime", "dynamo", "latency", file / "x",
        "none.py:build", f"{file}:f", have.weights, have.weights.parent / "vocab.txt", have.made / "clip",
    ]  # fmt: skip
    values = [value for value in values if "\0" not in str(value)]
    outputs = [
        file,
        folder / "made",
        place,
        bundle,
        bundle / "x",
        "/proc/x/y",
        folder / ("n" * 300),
        folder / ("n" * 250),
        "x",
        "",
    ]
    source = draw.choice([bundle, bundle, bundle, *values])
    if command in ("export", "ship"):
        source = draw.choice(["chinese-clip", "mobilevit", "none.py:build", "none", *values])
    arguments = [command, source]
    for name in draw.sample(_COMMANDS[command], min(len(_COMMANDS[command]), draw.choice([1, 1, 2, 3]))):
        value = draw.choice(outputs if name in ("-o", "--write") else values)
        arguments += [name] if name in _FLAGS else [name, value]
    if command in ("export", "ship", "unpack") and "-o" not in arguments:
        arguments += ["-o", folder / "out"]
    if command == "bench":
        arguments += ["--rounds", 2] * ("--rounds" in arguments) or ["--rounds", "x"]  # never one that measures
    torchlift(*arguments)


def python(draw, folder, have):
    """Calls with values of any kind."""
    evil = [*VALUES, np.zeros((2, 3)), np.array(1), b"\xff", object(), {1, 2}, "a\0b", folder, (1, 2), 1j, [0.5], float]
    value, other = draw.choice(evil), draw.choice(evil)
    match draw.randrange(12):
        case 0:
            tl.open(value if isinstance(value, (str, Path)) else folder)
        case 1:
            with tl.open(have.tiny) as pipeline:
                pipeline(
                    draw.choice(
                        [{"x": value}, {"x": value, "y": other}, {}, {value: other} if _hashable(value) else {}]
                    )
                )
        case 2:
            with tl.open(have.tiny) as pipeline:
                pipeline({"x": np.zeros((draw.choice([1, 3, 20]), 32), np.float32)}, size=value)
        case 3:
            with tl.open(have.clip) as pipeline:
                pipeline.encode_text(draw.choice([value, [value], [value, "猫"]]))
        case 4:
            with tl.open(have.clip) as pipeline:
                pipeline.encode_text(["猫"], size=value)
        case 5:
            with tl.open(have.clip) as pipeline:
                pipeline.encode_image(draw.choice([value, [value], [encoded(), value]]))
        case 6:
            with tl.open(have.clip) as pipeline:
                pipeline.encode_image([encoded()], size=value)
        case 7:
            with tl.open(have.clip) as pipeline:
                features = pipeline.encode_text(["猫"])
                pipeline.similarity(*draw.choice([(value, features), (features, value), (value, other)]))
        case 8:
            tl.Axis(str(draw.choice(WORDS)), value, other, draw.choice(evil))
        case 9:
            tl.TensorSpec("x", draw.choice(["float32", "x", "int64"]), ("batch", value), draw.choice([None, (0, 9)]))
        case 10:
            array = np.zeros(
                draw.choice([(2, 32), (0, 32), (2, 31), (32,), (100, 32)]), draw.choice(["f4", "f8", "i8", "U1"])
            )
            with tl.open(have.tiny) as pipeline:
                pipeline({"x": array}, size=draw.choice([None, 1, 8, 9, 0, -1]))
        case 11:
            open_data(value if isinstance(value, (str, Path)) else folder)


def _hashable(value):
    try:
        hash(value)
    except TypeError:
        return False
    return True


DOORS = {
    door.__name__: door
    for door in (
        *(manifests, goldens, graphs, programs, checkpoints, configs, vocabularies, pictures, texts),
        *(data, archives, options, python),
    )
}

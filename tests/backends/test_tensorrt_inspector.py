"""What engines said of themselves, and what is read from it."""

import json

import pytest

from torchlift.backends.tensorrt.inspector import (
    in_other_types,
    nodes_of,
    of_profile,
    read_layers,
    require_precision,
)
from torchlift.errors import BackendError

LINEAR_32, LINEAR_16 = "Row major linear FP32", "Row major linear FP16 format"
CHANNELS_16 = "Channel major FP16 format where channel % 8 == 0"
SUBGRAPH = "{ForeignNode[onnx::MatMul_999 + (Unnamed Layer* 83) [Shuffle]...unnorm_image_features.fp32]}"


def tensor(name, dimensions, words):
    return {"Name": name, "Location": "Device", "Dimensions": dimensions, "Format/Datatype": words}


# The image tower of a ViT-B/16 in FP16, as the inspector of 8.5.3.1 told it on an H200; of the convolution in part.
VIT = [
    {
        "Name": "image.fp16",
        "LayerType": "Reformat",
        "Inputs": [tensor("image", [1, 3, 224, 224], LINEAR_32)],
        "Outputs": [tensor("image.fp16", [1, 3, 224, 224], CHANNELS_16)],
        "ParameterType": "Reformat",
        "Origin": "IDENTITY",
        "TacticValue": "0x0000000000000000",
    },
    {
        "Name": "/patch_embedding/Conv",
        "LayerType": "CaskConvolution",
        "Inputs": [tensor("image.fp16", [1, 3, 224, 224], CHANNELS_16)],
        "Outputs": [tensor("/patch_embedding/Conv_output_0", [1, 768, 14, 14], CHANNELS_16)],
        "ParameterType": "Convolution",
        "Weights": {"Type": "Half", "Count": 589824},
        "TacticValue": "0xf79479a62ea9f901",
    },
    {
        "Name": SUBGRAPH,
        "LayerType": "Myelin",
        "Inputs": [tensor("/patch_embedding/Conv_output_0", [1, 768, 14, 14], CHANNELS_16)],
        "Outputs": [tensor(f"Reformatted Output Tensor 0 to {SUBGRAPH}", [1, 512], LINEAR_16)],
        "TacticValue": "0x0000000000000000",
    },
    {
        "Name": f"Reformatting CopyNode for Output Tensor 0 to {SUBGRAPH}",
        "LayerType": "Reformat",
        "Inputs": [tensor(f"Reformatted Output Tensor 0 to {SUBGRAPH}", [1, 512], LINEAR_16)],
        "Outputs": [tensor("unnorm_image_features", [1, 512], LINEAR_32)],
        "ParameterType": "Reformat",
        "Origin": "REFORMAT",
        "TacticValue": "0x00000000000003e8",
    },
]


def layers(*entries):
    return read_layers([json.dumps(entry) for entry in entries])


def computing(reads, writes, kind="CaskConvolution", name="conv"):
    """A layer that reads and writes tensors of these formats."""
    (found,) = layers(
        {
            "Name": name,
            "LayerType": kind,
            "Inputs": [tensor("a", [1], words) for words in reads],
            "Outputs": [tensor("b", [1], words) for words in writes],
        }
    )
    return found


def test_the_layers_of_a_vit():
    reformat, conv, subgraph, back = layers(*VIT)
    assert [(x.reads, x.writes, x.precision) for x in (reformat, conv, subgraph, back)] == [
        (("fp32",), ("fp16",), "fp16"),
        (("fp16",), ("fp16",), "fp16"),
        (("fp16",), ("fp16",), "fp16"),
        (("fp16",), ("fp32",), "fp32"),
    ]
    assert [(x.computes, x.opaque) for x in (reformat, conv, subgraph, back)] == [
        (False, False),
        (True, False),
        (True, True),
        (False, False),
    ]
    assert conv.nodes == ("/patch_embedding/Conv",)
    assert subgraph.nodes == ("onnx::MatMul_999", "unnorm_image_features.fp32"), "its first and its last"
    assert back.nodes == ()


@pytest.mark.parametrize(
    ("words", "precision"),
    [
        (LINEAR_32, "fp32"),
        (LINEAR_16, "fp16"),
        (CHANNELS_16, "fp16"),
        ("Four wide channel vectorized row major Int8 format", "int8"),
        ("Row major UInt8 format", "uint8"),
        ("UInt8", "uint8"),
        ("Int8", "int8"),
        ("Row major Int32 format", "int32"),
        ("Row major Bool format", "bool"),
        ("Half", "fp16"),
        ("Float", "fp32"),
        ("BFloat16", "bf16"),
        ("Int64", "int64"),
        ("FP8", "FP8"),
        ("N/A due to dynamic shapes", "N/A due to dynamic shapes"),
    ],
)
def test_precisions_are_read_from_the_words_of_every_release_and_else_are_its_words(words, precision):
    assert computing([], [words]).precision == precision


def test_a_layer_that_writes_nothing_has_no_precision():
    assert computing([LINEAR_32], []).precision == "?"


@pytest.mark.parametrize(
    ("name", "nodes"),
    [
        ("/patch_embedding/Conv", ("/patch_embedding/Conv",)),
        ("Conv_52 + Add_53 + Relu_54", ("Conv_52", "Add_53", "Relu_54")),
        ("Conv_8 || Conv_10", ("Conv_8", "Conv_10")),
        ("PWN(PWN(relu_1), add_1)", ("relu_1", "add_1")),
        ("Conv_7 + PWN(PWN(Sigmoid_8), Mul_9)", ("Conv_7", "Sigmoid_8", "Mul_9")),
        ("PWN(608 + (Unnamed Layer* 263) [Shuffle] + Add_239, PWN(Clip_242))", ("608", "Add_239", "Clip_242")),
        ("(Unnamed Layer* 83) [Shuffle]", ()),
        ("Reformatting CopyNode for Input Tensor 0 to /patch_embedding/Conv", ()),
        ("Reformatting CopyNode for Input Tensor 0 to Conv_8 + Relu_9", ()),
        ("Conv_8 + Relu_9 [profile 1]", ("Conv_8", "Relu_9")),
        (
            "{ForeignNode[/pre_layrnorm/Constant_output_0.../visual_projection/MatMul]}",
            ("/pre_layrnorm/Constant_output_0", "/visual_projection/MatMul"),
        ),
        ("{ForeignNode[Reshape_419 + Transpose_420...Gather_2423]} [profile 2]", ("Reshape_419", "Gather_2423")),
        (
            "{ForeignNode[(Unnamed Layer* 1247) [Shuffle].../layers.7/Transpose_2 + /layers.7/Reshape_4]}",
            ("/layers.7/Reshape_4",),
        ),
    ],
)
def test_the_nodes_of_a_layer_are_read_from_its_name(name, nodes):
    assert nodes_of(name, "") == nodes


def test_metadata_say_the_nodes_better_than_the_name():
    said = "[ONNX Layer: /conv/Conv]\x1e[ONNX Layer: /act/Sigmoid]\x1e[ONNX Layer: /conv/Conv]"
    assert nodes_of("__myl_ConvSigm_myl0_1", said) == ("/conv/Conv", "/act/Sigmoid")
    assert nodes_of("/conv/Conv", "nothing of nodes") == ("/conv/Conv",)
    (layer,) = layers({**VIT[1], "Metadata": said})
    assert layer.nodes == ("/conv/Conv", "/act/Sigmoid")


def test_an_engine_has_its_own_layers_for_each_profile():
    texts = [json.dumps({"Name": name}) for name in ("Conv_8", "Relu_9", "Conv_8 [profile 1]", "Conv_8 [profile 12]")]
    assert of_profile(texts, 0) == texts[:2]
    assert of_profile(texts, 1) == texts[2:3]
    assert of_profile(texts, 12) == texts[3:]
    assert of_profile(texts, 2) == []


def test_the_vit_computes_in_fp16_and_in_nothing_else():
    require_precision(layers(*VIT), "fp16")
    with pytest.raises(BackendError) as caught:
        require_precision(layers(*VIT), "fp32")
    assert caught.value.message == (
        "the engine does not compute in fp32: 2 of 2 layers compute in fp16, as /patch_embedding/Conv (fp16)"
    )
    assert caught.value.remedy.startswith("Use another precision: ")


def test_fp32_may_be_in_no_other_type_not_even_in_one_layer():
    plain, other = computing([LINEAR_32], [LINEAR_32]), computing([LINEAR_32], [LINEAR_16], name="other")
    require_precision([plain, plain], "fp32")
    with pytest.raises(BackendError, match=r"in fp32: 1 of 2 layers compute in fp16, as other \(fp16\)"):
        require_precision([plain, other], "fp32")


def test_whole_numbers_are_no_breach_of_fp32():
    require_precision([computing(["Row major Int32 format"], [LINEAR_32], "Gather")], "fp32")


INT8 = "Row major Int8 format"


@pytest.mark.parametrize("words", [INT8, "Row major UInt8 format", "UInt8"])
@pytest.mark.parametrize("kind", ["Gather", "Cast", "Myelin"])
def test_integers_that_a_network_is_given_are_no_breach_of_fp32(words, kind):
    assert require_precision([computing([words], [LINEAR_32], kind)], "fp32") is True
    assert in_other_types([computing([words], [LINEAR_32], kind)], "fp32") == ""


@pytest.mark.parametrize("written", [INT8, LINEAR_32])
def test_integers_that_a_layer_writes_or_multiplies_by_are(written):
    (product,) = layers(
        {
            "Name": "product",
            "LayerType": "CaskGemmMatrixMultiply",
            "Inputs": [tensor("a", [1], INT8)],
            "Outputs": [tensor("b", [1], written)],
            "Weights": {"Type": "Int8" if written == LINEAR_32 else "Float", "Count": 768},
        }
    )
    with pytest.raises(BackendError, match="the engine does not compute in fp32: 1 of 1 layers compute in"):
        require_precision([product], "fp32")


def test_what_reads_int8_computes_in_it_where_it_was_asked_for():
    assert require_precision([computing([INT8], [LINEAR_16])], "int8") is True
    with pytest.raises(BackendError, match=r"in int8: none of 1 layers does, as conv \(fp16\)"):
        require_precision([computing(["Row major UInt8 format"], [LINEAR_16])], "int8")


def test_what_only_moves_numbers_does_not_compute():
    moving = computing([LINEAR_32], [LINEAR_16], "Reformat")
    require_precision([moving, computing([LINEAR_32], [LINEAR_32])], "fp32")
    with pytest.raises(BackendError, match="does not compute in fp16: none of 1 layers does, as conv"):
        require_precision([moving, computing([LINEAR_32], [LINEAR_32])], "fp16")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_engine_that_only_moves_numbers_breaks_nothing(precision):
    require_precision([computing([LINEAR_32], [LINEAR_16], "Reformat")], precision)
    require_precision([], precision)


def test_int8_must_be_somewhere_but_may_hide_in_a_subgraph():
    plain, opaque = computing([LINEAR_16], [LINEAR_16]), computing([LINEAR_16], [LINEAR_16], "Myelin")
    whole = computing(["Thirty-two wide channel vectorized row major Int8 format"], [LINEAR_16])
    require_precision([plain, whole], "int8")
    require_precision([plain, opaque], "int8")
    with pytest.raises(BackendError, match="does not compute in int8: none of 1 layers does"):
        require_precision([plain], "int8")


def test_what_is_not_told_of_a_layer_without_shapes_is_neither():
    unknown = computing(["N/A due to dynamic shapes"], ["N/A due to dynamic shapes"])
    for precision in ("fp32", "fp16", "int8"):
        assert require_precision([unknown], precision) is False


DYNAMIC = """{
  "Name": "product", "LayerType": "CaskGemmConvolution",
  "Inputs": [{"Name": "reshape_before_product_out_tensor", "Location": "Device", "Dimensions": [1,32,1,1],
    "Format/Datatype": "N/A due to dynamic shapes"}],
  "Outputs": [{"Name": "product_out_tensor", "Location": "Device", "Dimensions": [1,24,1,1],
    "Format/Datatype": "N/A due to dynamic shapes"}],
  "ParameterType": "Convolution", "Kernel": [1,1], "OutMaps": 24, "Groups": 1,
  "Weights": {"Type": "Float", "Count": 768}, "Bias": {"Type": "Float", "Count": 24},
  "TacticName": "sm50_xmma_cublas_gemvx_f32f32_f32_f32_tn_n_int32_unit_n_launch_param4x32x32_strided_unit_stride"
}"""
"""What 8.5.3 says of a layer in a profile of varying sizes."""


def test_where_sizes_vary_the_weights_tell():
    (layer,) = read_layers([DYNAMIC])
    assert (layer.precision, layer.known) == ("fp32", {"fp32"})
    assert require_precision([layer], "fp32") is True
    with pytest.raises(BackendError, match=r"does not compute in fp16: none of 1 layers does, as product \(fp32\)"):
        require_precision([layer], "fp16")
    (half,) = read_layers([DYNAMIC.replace('"Type": "Float", "Count": 768', '"Type": "Half", "Count": 768')])
    assert require_precision([half], "fp16") is True
    with pytest.raises(BackendError, match="does not compute in fp32"):
        require_precision([half], "fp32")


def test_layers_that_do_not_tell_are_not_counted_with_those_that_do():
    silent = ["N/A due to dynamic shapes"]
    unknown = computing(silent, silent, "PointWise", name="mute")
    plain, half = computing([LINEAR_32], [LINEAR_32]), computing([LINEAR_16], [LINEAR_16])
    require_precision([unknown, half], "fp16")
    require_precision([unknown, plain], "fp32")
    with pytest.raises(BackendError, match=r"in fp16: none of 1 layers does, as conv \(fp32\)"):
        require_precision([unknown, plain], "fp16")
    with pytest.raises(BackendError, match=r"in fp32: 1 of 2 layers compute in fp16"):
        require_precision([unknown, half], "fp32")


@pytest.mark.parametrize("kind", ["CaskConvolution", "CaskGemmConvolution", "CaskGemmMatrixMultiply"])
def test_a_product_that_does_not_tell_may_be_in_any_type(kind):
    silent = ["N/A due to dynamic shapes"]
    for precision in ("fp16", "int8"):
        both = [computing(silent, silent, kind), computing([LINEAR_32], [LINEAR_32])]
        assert require_precision(both, precision) is False


def test_a_release_that_tells_the_type_apart_from_the_format_is_read():
    told = {"Name": "a", "Location": "Device", "Dimensions": [1, 8], "DataType": "Half", "Format": "Row-Major Linear"}
    (layer,) = layers(
        {"Name": "gemm", "LayerType": "gemm", "Inputs": [told], "Outputs": [told | {"DataType": "Float"}]}
    )
    assert (layer.reads, layer.writes) == (("fp16",), ("fp32",))


def test_layers_in_another_type_than_was_asked_for_are_counted_and_named():
    halves = [computing([LINEAR_16], [LINEAR_16], name=f"half{number}") for number in range(6)]
    floats = [computing([LINEAR_32], [LINEAR_32], "PointWise", f"float{number}") for number in range(5)]
    indices = computing(["Row major Int32 format"], ["Row major Int32 format"], "Gather")
    silent = computing(["N/A due to dynamic shapes"], ["N/A due to dynamic shapes"])
    moved = computing([LINEAR_32], [LINEAR_32], "Reformat")
    assert in_other_types([*halves, floats[0], indices, silent, moved], "fp16") == (
        "1 of 9 layers compute in another type than fp16: float0 (fp32)"
    )
    assert in_other_types([*halves, *floats], "fp16").endswith(
        "fp16: float0 (fp32), float1 (fp32), float2 (fp32) and 2 more"
    )
    assert in_other_types([*halves, indices, silent, moved], "fp16") == ""
    assert in_other_types(layers(*VIT), "fp16") == ""
    assert in_other_types(layers(*VIT), "int8").startswith("2 of 2 layers compute in another type than int8: ")

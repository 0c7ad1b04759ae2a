"""A quantised model with one of everything that ONNX lets a file say besides, for tests that nothing of it is lost."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from samples import layer, text_model

VENDOR = "com.example.vendor"


def rich_model() -> onnx.ModelProto:
    """Return the text model with names, texts, types and operators that this package knows nothing of."""
    model = text_model()
    _describe_model(model)
    _describe_graph(model.graph)
    _add_vendor_nodes(model.graph)
    _add_function(model)
    return model


def _props(target: object, *keys: str) -> None:
    """Add metadata, in an order that is not the alphabet's."""
    for key in keys:
        target.metadata_props.add(key=key, value=f"value of {key}")  # type: ignore[attr-defined]


def _describe_model(model: onnx.ModelProto) -> None:
    model.ir_version = 11
    model.producer_version = "1.2.3-rc4"
    model.domain = "com.example"
    model.model_version = 77
    model.doc_string = "First line\nsecond line, \u00e4\u00f6\u00fc \u4e2d\n"
    _props(model, "zeta", "alpha", "mid")
    del model.opset_import[:]
    for domain, version in ((VENDOR, 3), ("", 21), ("ai.onnx.ml", 4), ("com.example.unused", 1)):
        model.opset_import.add(domain=domain, version=version)
    configuration = model.configuration.add(name="two devices", num_devices=2)
    configuration.device.extend(["cpu:0", "npu:1"])
    step = helper.make_node("Identity", ["rate"], ["next rate"])
    outputs = [helper.make_tensor_value_info("next rate", TensorProto.FLOAT, [])]
    rate = helper.make_tensor("rate", TensorProto.FLOAT, [], [0.1])
    model.training_info.add().algorithm.CopyFrom(helper.make_graph([step], "training", [], outputs, [rate]))


def _describe_graph(graph: onnx.GraphProto) -> None:
    graph.doc_string = "the graph"
    _props(graph, "z", "a")
    for value in (*graph.input, *graph.output):
        value.doc_string = f"about {value.name}"
        _props(value, "b", "a")
        value.type.denotation = "TENSOR"
        value.type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    for tensor in graph.initializer:
        tensor.doc_string = f"doc of {tensor.name}"
        _props(tensor, "y", "x")
    # Inferred shapes, of an initialiser as well, in no order of the graph.
    for name, dtype, shape in (
        ("y_f", TensorProto.FLOAT, ["batch", "length", 128]),
        ("hidden", TensorProto.FLOAT, ["batch", "length", 256]),
        ("w_scale", TensorProto.FLOAT, []),
        ("mask_f", TensorProto.FLOAT, ["batch", "length"]),
    ):
        info = graph.value_info.add()
        info.CopyFrom(helper.make_tensor_value_info(name, dtype, shape))
        info.doc_string = f"inferred {name}"
        _props(info, "d", "c")
    for name in ("hidden", "mask_f"):
        annotation = graph.quantization_annotation.add(tensor_name=name)
        annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="w_scale")
        annotation.quant_parameter_tensor_names.add(key="ZERO_POINT_TENSOR", value="w_zero")
    for node in graph.node:
        node.doc_string = f"doc of {node.op_type}"
        _props(node, "n", "m")
    # Tensors in every kind of storage.
    graph.initializer.extend([
        helper.make_tensor("typed_floats", TensorProto.FLOAT, [3], [1.5, -2.5, 3.5]),
        helper.make_tensor("typed_halves", TensorProto.FLOAT16, [2], [0x3C00, 0x4000]),
        helper.make_tensor("texts", TensorProto.STRING, [2], [b"one", b"\xff\x00two"]),
        helper.make_tensor("nibbles", TensorProto.INT4, [5], [1, -2, 3, -4, 5]),
        helper.make_tensor("brain", TensorProto.BFLOAT16, [2], [1.0, -3.0]),
        helper.make_tensor("tiny", TensorProto.FLOAT8E4M3FN, [2], [1.0, -3.0]),
        numpy_helper.from_array(np.zeros((0, 4), np.float32), "empty"),
        numpy_helper.from_array(np.arange(5000, dtype=np.int64), "large"),
    ])  # fmt: skip
    # A default that the caller may override.
    graph.input.append(helper.make_tensor_value_info("large", TensorProto.INT64, [5000]))


def _add_vendor_nodes(graph: onnx.GraphProto) -> None:
    body = helper.make_graph(
        [helper.make_node("Inner", ["y", "captured"], ["inner_out"], domain=VENDOR, name="inner")],
        "body",
        [],
        [helper.make_tensor_value_info("inner_out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.arange(4, dtype=np.float32), "captured")],
        doc_string="a body",
        value_info=[helper.make_tensor_value_info("captured", TensorProto.FLOAT, [4])],
    )
    _props(body, "q", "p")
    tensor = numpy_helper.from_array(np.arange(6, dtype=np.int16).reshape(2, 3), "attribute tensor")
    tensor.doc_string = "in an attribute"
    _props(tensor, "t", "s")
    node = helper.make_node(
        "Mystery",
        ["y", "", "texts", "nibbles", "brain", "tiny", "empty", "typed_floats", "typed_halves", "large"],
        ["mystery", "", "mystery_2"],
        name="mystery",
        domain=VENDOR,
        zeta=1.5,
        an_int=-7,
        a_string=b"\x00bytes\xff",
        floats=[1.0, 2.0],
        ints=[3, 2, 1],
        strings=["b", "a"],
        a_tensor=tensor,
        tensors=[tensor, tensor],
        a_graph=body,
        a_type=helper.make_optional_type_proto(
            helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, ["n", None, 3]))
        ),
        overload="second",
    )
    node.attribute.reverse()
    node.attribute[0].doc_string = "doc of an attribute"
    _props(node, "w", "v")
    sharding = node.device_configurations.add(configuration_id="two devices", pipeline_stage=1)
    sharding.sharding_spec.add(tensor_name="large").device.extend([0, 1])
    graph.node.append(node)
    for name in ("mystery", "mystery_2"):
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", None, 4]))
    sequence = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    graph.node.append(helper.make_node("Listed", ["mystery"], ["list"], domain=VENDOR))
    graph.output.append(helper.make_value_info("list", sequence))


def _add_function(model: onnx.ModelProto) -> None:
    nodes = layer("fx", "fw", "fy")[:1]
    nodes.append(helper.make_node("Scaled", ["fy_q"], ["f_out"], domain=VENDOR, name="in function"))
    factor = nodes[-1].attribute.add(name="factor", type=onnx.AttributeProto.FLOAT, ref_attr_name="gain")
    factor.doc_string = "refers to the caller's"
    function = helper.make_function(
        VENDOR,
        "Local",
        ["fx", "unused"],
        ["f_out"],
        nodes,
        [helper.make_opsetid("", 21), helper.make_opsetid(VENDOR, 3)],
        attributes=["gain"],
        attribute_protos=[helper.make_attribute("offset", 0.5)],
        doc_string="a local function",
        overload="first",
        value_info=[helper.make_tensor_value_info("fy_q", TensorProto.UINT8, ["a", "b"])],
    )
    _props(function, "g", "f")
    model.functions.append(function)
    model.graph.node.append(
        helper.make_node("Local", ["y", ""], ["local"], domain=VENDOR, overload="first", name="call", gain=2.0)
    )
    model.graph.output.append(helper.make_tensor_value_info("local", TensorProto.FLOAT, None))

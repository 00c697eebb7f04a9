"""Real networks, where they are present: equal on all witnesses, and to onnxruntime's own run."""

from __future__ import annotations

from pathlib import Path

import pytest

from binpoint.driver import compile_model
from binpoint.options import CompileOptions
from binpoint.sim.witness import Answer
from binpoint.target import load_target

QUANTIZED = (
    "ad_autoencoder_qdq",
    "ad_autoencoder_tflite_int8",
    "ecg_cnn1d_qdq",
    "ecg_cnn1d_qop",
    "ic_resnet8_qdq",
    "ic_resnet8_qop",
    "ic_resnet8_tflite_int8",
    "keras_mnist_bn_dw_qdq_u8",
    "kws_dscnn_qdq",
    "kws_dscnn_tflite_int8",
    "mnist_mbv3_se_qdq",
    "mnist_unet_seg_qdq",
    "pendigits_mlp_qdq",
    "pendigits_mlp_qdq_sym_pt",
    "person_mobilenetv2_050_128_qdq",
)
FLOAT = (
    "ad_autoencoder_float",
    "ecg_cnn1d",
    "em_conv2d_selu_keras",
    "ic_resnet8_float",
    "jet_mlp_float_hls4ml",
    "keras_mnist_bn_dw",
    "kws_dscnn_float",
    "mnist_mbv3_se",
    "mnist_medley_a",
    "mnist_two_outputs",
    "mnist_unet_seg",
    "pendigits_mlp",
    "person_mobilenetv2_050_128_float",
    "sklearn_digits_mlp",
)
SAMPLES = 8


@pytest.mark.slow
@pytest.mark.parametrize("name", QUANTIZED)
def test_firmware_returns_what_onnxruntime_returns_for_the_file(
    name: str, shared_models: Path
) -> None:
    result = compile_model(
        shared_models / f"{name}.onnx",
        load_target("cortex-m4"),
        CompileOptions(),
        samples=shared_models / f"{name}.npz",
        verify="all",
        verify_samples=SAMPLES,
    )
    answers = {w.name: w.verdict for w in result.verdict.witnesses}
    assert answers["source"] is Answer.EQUAL, result.verdict.witnesses
    assert set(answers.values()) == {Answer.EQUAL}


@pytest.mark.slow
@pytest.mark.parametrize("name", FLOAT)
def test_all_witnesses_agree_on_a_network_quantized_here(name: str, shared_models: Path) -> None:
    result = compile_model(
        shared_models / f"{name}.onnx",
        load_target("rv32imc"),
        CompileOptions(),
        samples=shared_models / f"{name}.npz",
        calibrate_with=20,
        verify="all",
        verify_samples=SAMPLES,
    )
    answers = {w.name: w.verdict for w in result.verdict.witnesses}
    answers.pop("source", None)
    assert set(answers.values()) == {Answer.EQUAL}, result.verdict.witnesses

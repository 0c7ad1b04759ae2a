//! The operators of the domain, a folder each.

mod conv_compress_dequant;
mod declared;
mod decoding;
mod decompress_dequant;
mod decompress_weight;
mod elements;
mod gather_compress_dequant;
mod inputs;
mod matmul_compress_dequant;
mod operand;
mod output;
mod product;
mod weight;

use crate::operator::Overload;

/// All of them: a line for each operator.
const OPERATORS: &[&[&dyn Overload]] = &[
    matmul_compress_dequant::OVERLOADS,
    decompress_weight::OVERLOADS,
    decompress_dequant::OVERLOADS,
    gather_compress_dequant::OVERLOADS,
    conv_compress_dequant::OVERLOADS,
];

/// The overloads of all operators, in the order in which onnxruntime is to try them.
pub fn overloads() -> impl Iterator<Item = &'static dyn Overload> {
    OPERATORS.iter().flat_map(|overloads| overloads.iter().copied())
}

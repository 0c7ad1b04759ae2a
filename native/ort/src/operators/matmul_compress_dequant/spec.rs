//! What the operator takes and gives: one table of inputs, one of forms.

use std::ffi::CStr;

use mcd_core::WeightType;
use ort_sys::ONNXTensorElementDataType as Type;

use crate::ffi::ElementType;
use crate::operator::{Input, Signature};
use crate::operators::declared::{ABSENT, ANY, FLOAT, INT8, INT32, UINT8};
use crate::operators::product::Results;
use crate::operators::weight;

pub const OFFSET_X: &CStr = c"offset_x";
pub const X1_PERM: &CStr = c"x1_perm";
pub const Y_PERM: &CStr = c"y_perm";

const INT64: Type = Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;

/// Declares the inputs in their order: name in the schema, presence, declared type by form.
macro_rules! inputs {
    ($($(#[$doc:meta])* $constant:ident = $name:literal, $presence:ident, $types:expr;)*) => {
        /// The inputs, with their names and positions.
        pub mod input {
            use crate::operator::Input;

            #[expect(non_camel_case_types, clippy::upper_case_acronyms, reason = "named like the constants, whose positions they are")]
            enum Position { $($constant),* }

            $($(#[$doc])* pub const $constant: Input = Input::$presence(Position::$constant as usize, $name);)*

            /// All of them.
            pub const ALL: &[Input] = &[$($constant),*];
        }

        const TYPES: &[fn(Form) -> Type] = &[$($types),*];
    };
}

inputs! {
    /// Activations, (..., k); float ones are quantised first.
    X1 = "x1", required, |_| ANY;
    /// The compressed stream.
    X2 = "x2", required, |_| INT8;
    /// The tile table.
    COMPRESS_INDEX = "compress_index", required, |_| INT8;
    /// Multiplier of the accumulator.
    DEQ_SCALE = "deq_scale", optional, Form::scale;
    /// int32, added to the accumulator.
    BIAS = "bias", optional, |_| INT32;
    /// Reserved by Ascend's operator; always absent.
    OFFSET_W = "offset_w", optional, |_| INT8;
    /// Zero point of the activations.
    X1_ZERO_POINT = "x1_zero_point", optional, |_| ANY;
    /// Zero points of the weight.
    W_ZERO_POINT = "w_zero_point", optional, |_| ANY;
    /// Float bias, added after the multiplication.
    ADDEND = "addend", optional, |_| ANY;
    /// Zero point of a requantised output.
    Y_ZERO_POINT = "y_zero_point", optional, Form::zero_point;
    /// Scale of the activations, which `deq_scale` is multiplied by.
    X1_SCALE = "x1_scale", optional, |_| FLOAT;
    /// Scale by which a requantised result is made float again.
    Y_SCALE = "y_scale", optional, |form| if form == Form::Dequantized { FLOAT } else { ABSENT };
    /// Shape that `x1` is brought to, its dimensions in another order.
    X1_SHAPE = "x1_shape", optional, |_| INT64;
    /// Shape that the result is brought to, before its dimensions get another order.
    Y_SHAPE = "y_shape", optional, |_| INT64;
    /// What the float result is multiplied with, element by element.
    GATE = "gate", optional, |_| ANY;
    /// What is added to the float result then, element by element.
    RESIDUAL = "residual", optional, |_| ANY;
}

/// Where the weight is.
pub const WEIGHT: weight::Inputs =
    weight::Inputs { x2: input::X2, index: input::COMPRESS_INDEX, declares_type: input::W_ZERO_POINT.name };

/// What becomes of the integer accumulator; one overload of the operator each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// No scale: int32.
    Raw,
    /// float scale: float.
    Float,
    /// Scale as fp32 bits in uint64, as on Ascend: float16.
    Strict,
    /// float16 scale: float16.
    Half,
    /// float scale and a zero point: uint8.
    RequantU8,
    /// float scale and a zero point: int8.
    RequantI8,
    /// float scale, a zero point, and a scale of the result: requantised, and made float again.
    Dequantized,
}

impl Form {
    /// In the order in which onnxruntime tries them: an absent input fits every overload, so those that want inputs
    /// to be absent come before those that want them to be there.
    pub const ALL: [Self; 7] =
        [Self::Raw, Self::Float, Self::Strict, Self::Half, Self::RequantU8, Self::RequantI8, Self::Dequantized];

    /// The declared type of `deq_scale`.
    fn scale(self) -> Type {
        match self {
            Self::Raw => ABSENT,
            Self::Float | Self::RequantU8 | Self::RequantI8 | Self::Dequantized => FLOAT,
            Self::Strict => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64,
            Self::Half => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
        }
    }

    /// The declared type of `y_zero_point`.
    fn zero_point(self) -> Type {
        match self {
            Self::RequantU8 | Self::RequantI8 => self.output(),
            Self::Dequantized => ANY,
            _ => ABSENT,
        }
    }

    /// The overload that onnxruntime takes for a node, by the types of those inputs of it that decide.
    pub fn of(types: [(Input, Option<ElementType>); 3]) -> Option<Self> {
        let fits = |form: &Self, input: Input, present: Option<ElementType>| {
            present.is_none_or(|found| [found.0, ANY as i32].contains(&(form.input(input.index) as i32)))
        };
        Self::ALL.into_iter().find(|form| types.iter().all(|&(input, present)| fits(form, input, present)))
    }

    /// What the core makes of the sums; of those that are made float again, bytes of the type `requantized`.
    pub fn results(self, requantized: WeightType) -> Results {
        match self {
            Self::Raw => Results::Sums,
            Self::Float => Results::Floats,
            Self::Strict | Self::Half => Results::Halves,
            Self::RequantU8 => Results::Bytes(WeightType::U8),
            Self::RequantI8 => Results::Bytes(WeightType::I8),
            Self::Dequantized => Results::Bytes(requantized),
        }
    }
}

impl Signature for Form {
    const NAME: &'static CStr = c"MatmulCompressDequant";
    const INPUTS: &'static [Input] = input::ALL;

    fn input(self, index: usize) -> Type {
        TYPES[index](self)
    }

    fn output(self) -> Type {
        match self {
            Self::Raw => INT32,
            Self::Float | Self::Dequantized => FLOAT,
            Self::Strict | Self::Half => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
            Self::RequantU8 => UINT8,
            Self::RequantI8 => INT8,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_decide_the_output() {
        let (float, uint8, int8) = (Some(ElementType::FLOAT), Some(ElementType::UINT8), Some(ElementType::INT8));
        let uint64 = Some(ElementType::UINT64);
        for (deq_scale, y_zero_point, y_scale, form) in [
            (None, None, None, Some(Form::Raw)),
            (float, None, None, Some(Form::Float)),
            (uint64, None, None, Some(Form::Strict)),
            (Some(ElementType::FLOAT16), None, None, Some(Form::Half)),
            (float, uint8, None, Some(Form::RequantU8)),
            (float, int8, None, Some(Form::RequantI8)),
            (float, uint8, float, Some(Form::Dequantized)),
            (float, int8, float, Some(Form::Dequantized)),
            (int8, None, None, None),
            (uint64, int8, None, None),
            (uint64, int8, float, None),
        ] {
            let types =
                [(input::DEQ_SCALE, deq_scale), (input::Y_ZERO_POINT, y_zero_point), (input::Y_SCALE, y_scale)];
            assert_eq!(Form::of(types), form, "{types:?}");
        }
    }

    #[test]
    fn overloads_differ_in_an_input_or_the_output() {
        // onnxruntime refuses to register two kernels that could take the same node.
        for (i, a) in Form::ALL.iter().enumerate() {
            for b in &Form::ALL[i + 1..] {
                let differs =
                    (0..input::ALL.len()).any(|index| a.input(index) != b.input(index)) || a.output() != b.output();
                assert!(differs, "{a:?} {b:?}");
            }
        }
    }
}

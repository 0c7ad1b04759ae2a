//! What the operator takes and gives: one table of inputs, one of forms.

use std::ffi::CStr;

use mcd_core::WeightType;
use ort_sys::ONNXTensorElementDataType as Type;

use crate::ffi::ElementType;
use crate::operator::{Input, Signature};
use crate::operators::declared::{ABSENT, ANY, FLOAT, INT8, INT32, UINT8};
use crate::operators::product::Results;
use crate::operators::weight;

/// Size of the kernel, without channels.
pub const KERNEL_SHAPE: &CStr = c"kernel_shape";
pub const STRIDES: &CStr = c"strides";
pub const DILATIONS: &CStr = c"dilations";
/// Pixels at the beginning of each dimension, then those at its end.
pub const PADS: &CStr = c"pads";
/// How `pads` are found where the size of the image tells them: 0 as they are, 1 `SAME_UPPER`, 2 `SAME_LOWER`.
pub const SAME: &CStr = c"same";
/// Groups of channels.
pub const GROUP: &CStr = c"group";
/// Images and results have their channels last: 1, or, which is the default, 0.
pub const CHANNELS_LAST: &CStr = c"channels_last";

/// The inputs, with their names and positions.
pub mod input {
    use crate::operator::Input;

    /// Activations, (batch, channels, pixels …) or (batch, pixels …, channels).
    pub const X1: Input = Input::required(0, "x1");
    /// The compressed stream of the kernel.
    pub const X2: Input = Input::required(1, "x2");
    /// The tile table.
    pub const COMPRESS_INDEX: Input = Input::required(2, "compress_index");
    /// Multiplier of the accumulator.
    pub const DEQ_SCALE: Input = Input::optional(3, "deq_scale");
    /// int32, added to the accumulator.
    pub const BIAS: Input = Input::optional(4, "bias");
    /// Zero point of the activations, and what pixels beside the image are.
    pub const X1_ZERO_POINT: Input = Input::optional(5, "x1_zero_point");
    /// Zero points of the kernel.
    pub const W_ZERO_POINT: Input = Input::optional(6, "w_zero_point");
    /// Float bias, added after the multiplication.
    pub const ADDEND: Input = Input::optional(7, "addend");
    /// Zero point of a requantised output.
    pub const Y_ZERO_POINT: Input = Input::optional(8, "y_zero_point");
    /// Scale of the activations, which `deq_scale` is multiplied by.
    pub const X1_SCALE: Input = Input::optional(9, "x1_scale");

    /// All of them.
    pub const ALL: &[Input] =
        &[X1, X2, COMPRESS_INDEX, DEQ_SCALE, BIAS, X1_ZERO_POINT, W_ZERO_POINT, ADDEND, Y_ZERO_POINT, X1_SCALE];
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
    /// float scale and a zero point: uint8.
    RequantU8,
    /// float scale and a zero point: int8.
    RequantI8,
}

impl Form {
    /// In the order in which onnxruntime tries them: an absent input fits every overload, so those that want inputs to be
    /// absent come before those that want them to be there.
    pub const ALL: [Self; 4] = [Self::Raw, Self::Float, Self::RequantU8, Self::RequantI8];

    /// The overload that onnxruntime takes for a node with these types of `deq_scale` and `y_zero_point`.
    pub fn of(deq_scale: Option<ElementType>, y_zero_point: Option<ElementType>) -> Option<Self> {
        let fits = |declared: Type, found: Option<ElementType>| found.is_none_or(|found| found.0 == declared as i32);
        Self::ALL.into_iter().find(|form| {
            fits(form.input(input::DEQ_SCALE.index), deq_scale)
                && fits(form.input(input::Y_ZERO_POINT.index), y_zero_point)
        })
    }

    /// What the core makes of the sums.
    pub fn results(self) -> Results {
        match self {
            Self::Raw => Results::Sums,
            Self::Float => Results::Floats,
            Self::RequantU8 => Results::Bytes(WeightType::U8),
            Self::RequantI8 => Results::Bytes(WeightType::I8),
        }
    }
}

impl Signature for Form {
    const NAME: &'static CStr = c"ConvCompressDequant";
    const INPUTS: &'static [Input] = input::ALL;

    fn input(self, index: usize) -> Type {
        let of = |input: Input| input.index == index;
        if of(input::X2) || of(input::COMPRESS_INDEX) {
            INT8
        } else if of(input::BIAS) {
            INT32
        } else if of(input::DEQ_SCALE) || of(input::X1_SCALE) {
            if self == Self::Raw { ABSENT } else { FLOAT }
        } else if of(input::ADDEND) {
            if self == Self::Float { FLOAT } else { ABSENT }
        } else if of(input::Y_ZERO_POINT) {
            if matches!(self, Self::RequantU8 | Self::RequantI8) { self.output() } else { ABSENT }
        } else {
            ANY
        }
    }

    fn output(self) -> Type {
        match self {
            Self::Raw => INT32,
            Self::Float => FLOAT,
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
        for (deq_scale, y_zero_point, form) in [
            (None, None, Some(Form::Raw)),
            (float, None, Some(Form::Float)),
            (float, uint8, Some(Form::RequantU8)),
            (float, int8, Some(Form::RequantI8)),
            (int8, None, None),
            (float, float, None),
        ] {
            assert_eq!(Form::of(deq_scale, y_zero_point), form, "{deq_scale:?} {y_zero_point:?}");
        }
    }

    #[test]
    fn overloads_differ_in_an_input() {
        for (i, a) in Form::ALL.iter().enumerate() {
            for b in &Form::ALL[i + 1..] {
                assert!((0..input::ALL.len()).any(|index| a.input(index) != b.input(index)), "{a:?} {b:?}");
            }
        }
    }
}

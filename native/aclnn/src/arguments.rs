//! The first phase's arguments: handles, and the tensors behind them.

use std::sync::Arc;

use crate::mode::strict;
use crate::state::State;
use crate::status::{Checked, PARAM_INVALID, PARAM_NULLPTR, fail};
use crate::tensor::{DataType, Tensor};

/// The first phase's arguments; 0 is null.
#[derive(Debug, Clone, Copy)]
pub struct Arguments {
    pub x1: usize,
    pub x2: usize,
    pub compress_index: usize,
    pub bias: usize,
    pub deq_scale: usize,
    pub offset_w: usize,
    pub offset_x: i32,
    pub compress_info: usize,
    pub out: usize,
}

impl Arguments {
    /// What may not be null, by name.
    fn required(&self) -> [(&'static str, usize); 6] {
        [
            ("x1", self.x1),
            ("x2", self.x2),
            ("compressIndex", self.compress_index),
            ("deqScale", self.deq_scale),
            ("compressInfo", self.compress_info),
            ("out", self.out),
        ]
    }

    /// The descriptors that have to live until the second phase.
    pub fn described(&self) -> Vec<(&'static str, usize)> {
        let required = self.required().into_iter().filter(|(what, _)| *what != "compressInfo");
        required.chain((self.bias != 0).then_some(("bias", self.bias))).collect()
    }
}

/// The tensors behind the arguments.
pub struct Tensors {
    pub x1: Arc<Tensor>,
    pub x2: Arc<Tensor>,
    pub index: Arc<Tensor>,
    pub bias: Option<Arc<Tensor>>,
    pub scale: Arc<Tensor>,
    pub out: Arc<Tensor>,
    pub info: Arc<[i64]>,
}

impl Tensors {
    /// Looks them up and checks their types.
    pub fn look_up(state: &State, arguments: &Arguments) -> Checked<Self> {
        if let Some((what, _)) = arguments.required().iter().find(|(_, handle)| *handle == 0) {
            return fail(PARAM_NULLPTR, format!("{what} is null"));
        }
        if arguments.bias == 0 && strict() {
            return fail(
                PARAM_NULLPTR,
                "bias is null: the document makes it optional, the implementation does not; give zeros",
            );
        }
        let tensors = Self {
            x1: state.tensor("x1", arguments.x1)?,
            x2: state.tensor("x2", arguments.x2)?,
            index: state.tensor("compressIndex", arguments.compress_index)?,
            bias: match arguments.bias {
                0 => None,
                handle => Some(state.tensor("bias", handle)?),
            },
            scale: state.tensor("deqScale", arguments.deq_scale)?,
            out: state.tensor("out", arguments.out)?,
            info: state.int_array("compressInfo", arguments.compress_info)?,
        };
        tensors.check_types()?;
        Ok(tensors)
    }

    fn check_types(&self) -> Checked<()> {
        check_type("x1", &self.x1, DataType::INT8)?;
        check_type("x2", &self.x2, DataType::INT8)?;
        check_type("compressIndex", &self.index, DataType::INT8)?;
        if let Some(bias) = &self.bias {
            check_type("bias", bias, DataType::INT32)?;
        }
        check_type("deqScale", &self.scale, DataType::UINT64)?;
        check_type("out", &self.out, DataType::FLOAT16)
    }

    /// The sizes (m, k) of x1, after checking the ranks that document and implementation both want.
    pub fn rows_and_k(&self) -> Checked<(i64, i64)> {
        let [m, k] = self.x1.dims[..] else {
            return fail(PARAM_INVALID, format!("x1 has shape {:?} instead of (m, k)", self.x1.dims));
        };
        if self.x2.dims.len() != 1 {
            return fail(PARAM_INVALID, format!("x2 has shape {:?} instead of one dimension", self.x2.dims));
        }
        Ok((m, k))
    }

    /// Checks x1's k against the one that `compressInfo` says.
    pub fn check_k(&self, k: i64, info_k: i64) -> Checked<()> {
        if k == info_k {
            return Ok(());
        }
        let found = &self.x1.dims;
        fail(PARAM_INVALID, format!("x1 has shape {found:?}, and compressInfo[2], which is k, is {info_k}"))
    }
}

fn check_type(what: &str, tensor: &Tensor, expected: DataType) -> Checked<()> {
    if tensor.data_type == expected {
        return Ok(());
    }
    fail(PARAM_INVALID, format!("{what} is {} instead of {expected}", tensor.data_type))
}

/// Bytes that `compressIndex` has for a weight.
pub fn index_bytes(k: i64, n: i64) -> i64 {
    8 * k.unsigned_abs().div_ceil(256).saturating_mul(n.unsigned_abs().div_ceil(128)).min(1 << 59) as i64
}

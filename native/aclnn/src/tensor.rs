//! `aclTensor`: a description of memory that somebody else owns.

use std::fmt;

use crate::status::{Checked, PARAM_INVALID, PARAM_NULLPTR, fail};

/// `aclDataType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataType(pub i32);

impl DataType {
    pub const FLOAT16: Self = Self(1);
    pub const INT8: Self = Self(2);
    pub const INT32: Self = Self(3);
    pub const UINT64: Self = Self(10);
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            0 => "ACL_FLOAT",
            1 => "ACL_FLOAT16",
            2 => "ACL_INT8",
            3 => "ACL_INT32",
            4 => "ACL_UINT8",
            6 => "ACL_INT16",
            7 => "ACL_UINT16",
            8 => "ACL_UINT32",
            9 => "ACL_INT64",
            10 => "ACL_UINT64",
            11 => "ACL_DOUBLE",
            12 => "ACL_BOOL",
            27 => "ACL_BF16",
            -1 => "ACL_DT_UNDEFINED",
            other => return write!(f, "aclDataType {other}"),
        };
        f.write_str(name)
    }
}

/// `ACL_FORMAT_ND`, the only format that the document knows.
pub const FORMAT_ND: i32 = 2;
/// `ACL_FORMAT_FRACTAL_NZ`, which the implementation takes for x1.
pub const FORMAT_FRACTAL_NZ: i32 = 29;

/// Dimensions that a descriptor may have.
pub const MAX_RANK: u64 = 8;

/// A tensor as it was described.
#[derive(Debug, Clone)]
pub struct Tensor {
    pub dims: Vec<i64>,
    pub data_type: DataType,
    pub format: i32,
    pub strides: Vec<i64>,
    /// In elements, from `data` on.
    pub offset: usize,
    /// Elements of the storage.
    pub stored: usize,
    /// Address of the storage, not of the first element.
    pub data: usize,
}

impl Tensor {
    /// Checks a description against itself. `strides` may be absent: contiguous then.
    pub fn new(
        dims: Vec<i64>,
        data_type: DataType,
        strides: Option<Vec<i64>>,
        offset: i64,
        format: i32,
        storage: &[i64],
        data: usize,
    ) -> Checked<Self> {
        let Some(elements) = count(&dims) else {
            return fail(PARAM_INVALID, format!("viewDims {dims:?} are impossible"));
        };
        let Some(stored) = count(storage) else {
            return fail(PARAM_INVALID, format!("storageDims {storage:?} are impossible"));
        };
        let Ok(offset) = usize::try_from(offset) else {
            return fail(PARAM_INVALID, format!("offset {offset} is negative"));
        };
        let strides = strides.unwrap_or_else(|| contiguous(&dims));
        if let Some(stride) = strides.iter().find(|stride| **stride < 0) {
            return fail(PARAM_INVALID, format!("stride {stride} is negative"));
        }
        // The last element that the view reaches.
        let last = dims.iter().zip(&strides).try_fold(offset, |last, (&dim, &stride)| {
            usize::try_from(stride).ok()?.checked_mul(usize::try_from(dim - 1).ok()?)?.checked_add(last)
        });
        if elements > 0 && last.is_none_or(|last| last >= stored) {
            return fail(
                PARAM_INVALID,
                format!(
                    "viewDims {dims:?} with strides {strides:?} and offset {offset} reach beyond storageDims {storage:?}"
                ),
            );
        }
        Ok(Self { dims, data_type, format, strides, offset, stored, data })
    }

    /// Elements of the view.
    pub fn len(&self) -> usize {
        count(&self.dims).expect("checked at creation")
    }

    /// Elements from the first one of the view to its last one; all of the storage where that is in fractals.
    pub fn reach(&self) -> usize {
        if self.len() == 0 {
            0
        } else if self.format == FORMAT_FRACTAL_NZ {
            self.stored - self.offset
        } else {
            1 + self
                .dims
                .iter()
                .zip(&self.strides)
                .map(|(&dim, &stride)| (dim - 1) as usize * stride as usize)
                .sum::<usize>()
        }
    }

    /// Whether no two elements of a matrix lie in one place.
    pub fn elements_are_apart(&self) -> bool {
        let ([rows, columns], [down, right]) = (&self.dims[..], &self.strides[..]) else {
            return self.is_contiguous();
        };
        let nested = |outer: i64, inner: i64, count: i64| inner > 0 && outer > inner.saturating_mul(count - 1);
        match (*rows > 1, *columns > 1) {
            (false, false) => true,
            (true, false) => *down > 0,
            (false, true) => *right > 0,
            (true, true) => nested(*down, *right, *columns) || nested(*right, *down, *rows),
        }
    }

    /// Whether the elements lie one behind the other.
    pub fn is_contiguous(&self) -> bool {
        let expected = contiguous(&self.dims);
        self.len() == 0
            || self.dims.iter().zip(self.strides.iter().zip(&expected)).all(|(&dim, (a, b))| dim == 1 || a == b)
    }
}

/// Elements of a shape; None when it has a negative dimension or more bytes than an address can tell.
fn count(dims: &[i64]) -> Option<usize> {
    dims.iter()
        .try_fold(1_usize, |count, &dim| count.checked_mul(usize::try_from(dim).ok()?))
        .filter(|count| *count <= isize::MAX as usize / 16)
}

fn contiguous(dims: &[i64]) -> Vec<i64> {
    let mut strides = vec![1_i64; dims.len()];
    for at in (1..dims.len()).rev() {
        strides[at - 1] = strides[at].saturating_mul(dims[at]);
    }
    strides
}

/// Checks the length of a list that a caller gives as pointer and count.
pub fn check_list(what: &str, null: bool, length: u64, limit: u64) -> Checked<()> {
    if length > limit {
        return fail(PARAM_INVALID, format!("{what} has {length} elements, and the limit is {limit}"));
    }
    if null && length > 0 {
        return fail(PARAM_NULLPTR, format!("{what} is null, but is to have {length} elements"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(dims: &[i64], strides: &[i64], offset: i64, storage: &[i64]) -> Checked<Tensor> {
        Tensor::new(dims.into(), DataType::INT8, Some(strides.into()), offset, FORMAT_ND, storage, 0)
    }

    #[test]
    fn a_view_stays_in_its_storage() {
        assert!(tensor(&[2, 3], &[3, 1], 0, &[6]).unwrap().is_contiguous());
        assert!(!tensor(&[3, 2], &[1, 3], 0, &[2, 3]).unwrap().is_contiguous());
        assert!(tensor(&[1, 3], &[99, 1], 0, &[3]).unwrap().is_contiguous());
        for (dims, strides, offset, storage) in [
            (&[2, 3][..], &[3, 1][..], 1, &[6][..]),
            (&[2, 3], &[4, 1], 0, &[6]),
            (&[-1], &[1], 0, &[6]),
            (&[2], &[-1], 1, &[6]),
            (&[2], &[1], -1, &[6]),
            (&[i64::MAX, i64::MAX], &[1, 1], 0, &[6]),
            (&[2, 2], &[i64::MAX, i64::MAX], 0, &[6]),
            (&[2], &[1], 0, &[-2]),
        ] {
            assert_eq!(tensor(dims, strides, offset, storage).unwrap_err().code, PARAM_INVALID, "{dims:?}");
        }
    }

    #[test]
    fn an_empty_view_needs_no_storage() {
        let empty = tensor(&[0, 3], &[3, 1], 0, &[0]).unwrap();
        assert_eq!(empty.len(), 0);
        assert!(empty.is_contiguous());
    }
}

//! What the public implementation does with the arguments: it checks little, and what it does not check is taken.
//!
//! Where it goes on to a device with arguments whose effect there is not public, the first phase succeeds as the
//! implementation's does, and the work fails on the stream with the reason.

use crate::arguments::{Tensors, index_bytes};
use crate::plan::{Settled, Work};
use crate::status::{Checked, PARAM_INVALID, fail, report};
use crate::tensor::{FORMAT_FRACTAL_NZ, FORMAT_ND, Tensor};
use crate::view::fractal_elements;

/// Numbers of `compressInfo` that are read; nobody asks how many there are.
const READ: usize = 4;

/// Checks the arguments and says what is to be done.
pub fn settle(tensors: &Tensors) -> Checked<Settled> {
    let (m, k) = tensors.rows_and_k()?;
    let info = &tensors.info;
    if info.len() < READ {
        return fail(
            PARAM_INVALID,
            format!(
                "compressInfo is {info:?} instead of [tilingK, tilingN, k, n, direction]: the implementation would read \
                 beyond its end"
            ),
        );
    }
    let n = info[3];
    tensors.check_k(k, info[2])?;
    let work = if tensors.out.len() == 0 {
        Work::Nothing
    } else if tensors.x1.len() == 0 || tensors.x2.len() == 0 || odd_scales(&tensors.scale) {
        Work::Zeros
    } else {
        not_known(tensors, [m, k, n]).map_or(Work::Multiply, Work::Unknown)
    };
    Ok(Settled { work, m, k, n })
}

/// Whether this number of scales is answered with zeros.
fn odd_scales(scale: &Tensor) -> bool {
    let count = scale.len();
    let odd = !count.is_multiple_of(16);
    if odd {
        report(&format!(
            "deqScale has shape {:?}: the implementation logs that {count} is no multiple of 16, returns success and \
             fills out with zeros (its newest version returns 161002)",
            scale.dims
        ));
    }
    odd
}

/// Why it is not known what a device would give.
fn not_known(tensors: &Tensors, [m, k, n]: [i64; 3]) -> Option<String> {
    let Tensors { x2, index, scale, out, info, .. } = tensors;
    let limit = i64::from(i32::MAX);
    if info[..2] != [8; 2] {
        return Some(format!("compressInfo is {info:?}, and only tiles of 8 x 8 are known to work"));
    }
    if !(1..=limit).contains(&k) || !(1..=limit).contains(&n) {
        return Some(format!("compressInfo is {info:?}: k and n are out of range"));
    }
    if out.dims != [m, n] || !out.elements_are_apart() {
        return Some(format!("out has shape {:?} and strides {:?} instead of {:?}", out.dims, out.strides, [m, n]));
    }
    if let Some(bias) = &tensors.bias
        && (bias.len() as i64 != n || bias.dims.last() != Some(&n))
    {
        return Some(format!("bias has shape {:?} for {n} columns", bias.dims));
    }
    if (scale.len() as i64) < n {
        return Some(format!(
            "deqScale has shape {:?}: a device would read beyond its end for {n} columns",
            scale.dims
        ));
    }
    if index.len() as i64 != index_bytes(k, n) {
        return Some(format!(
            "compressIndex has {} bytes, and the weight's tiles need {}",
            index.len(),
            index_bytes(k, n)
        ));
    }
    let plain = [("x2", x2), ("compressIndex", index), ("deqScale", scale)];
    if let Some((what, tensor)) = plain.into_iter().find(|(_, tensor)| !tensor.is_contiguous()) {
        return Some(format!("{what} has strides {:?} for shape {:?}", tensor.strides, tensor.dims));
    }
    odd_format(tensors)
}

/// Formats other than those that the implementation converts.
fn odd_format(tensors: &Tensors) -> Option<String> {
    let Tensors { x1, out, .. } = tensors;
    if x1.format == FORMAT_FRACTAL_NZ {
        if x1.offset != 0 || x1.stored != fractal_elements(&x1.dims) {
            return Some(format!("x1 is in fractals, and its storage does not hold those of {:?}", x1.dims));
        }
    } else if x1.format != FORMAT_ND {
        return Some(format!("x1 has format {}", x1.format));
    }
    (out.format != FORMAT_ND).then(|| format!("out has format {}", out.format))
}

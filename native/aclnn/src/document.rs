//! What the operator's document allows: everything else is refused in the first phase.

use crate::arguments::{Arguments, Tensors, index_bytes};
use crate::plan::{Settled, Work};
use crate::status::{Checked, PARAM_INVALID, fail};
use crate::tensor::{FORMAT_ND, Tensor};

/// Checks the arguments and says what is to be done.
pub fn settle(tensors: &Tensors, arguments: &Arguments) -> Checked<Settled> {
    let (m, k) = tensors.rows_and_k()?;
    let [_, _, info_k, n, _] = check_info(&tensors.info)?;
    tensors.check_k(k, info_k)?;
    if arguments.offset_x != 0 {
        return fail(PARAM_INVALID, format!("offsetX is {} instead of 0", arguments.offset_x));
    }
    if arguments.offset_w != 0 {
        return fail(PARAM_INVALID, "offsetW is not null");
    }
    check_limits(k, n)?;
    check_layouts(tensors)?;
    check_operands(tensors, [m, k, n])?;
    let work = if tensors.out.len() == 0 {
        Work::Nothing
    } else if k == 0 {
        Work::BiasOnly
    } else if tensors.x2.len() == 0 {
        return fail(PARAM_INVALID, format!("x2 is empty, and the weight is ({n}, {k})"));
    } else {
        Work::Multiply
    };
    Ok(Settled { work, m, k, n })
}

/// [tilingK, tilingN, k, n, direction].
fn check_info(info: &[i64]) -> Checked<[i64; 5]> {
    let Ok([tiling_k, tiling_n, k, n, direction]) = <[i64; 5]>::try_from(info) else {
        let hint = match info.len() {
            9 => "; 9 is the number of ACL_INT64, and aclCreateIntArray's second argument is a length: give 5",
            _ => "",
        };
        return fail(
            PARAM_INVALID,
            format!("compressInfo is {info:?} instead of [tilingK, tilingN, k, n, direction]{hint}"),
        );
    };
    if [tiling_k, tiling_n] != [8; 2] {
        return fail(PARAM_INVALID, format!("compressInfo is {info:?}: tilingK and tilingN must be 8"));
    }
    if direction != 1 {
        return fail(PARAM_INVALID, format!("compressInfo is {info:?}: direction must be 1"));
    }
    let limit = i64::from(i32::MAX);
    if !(0..=limit).contains(&k) || !(0..=limit).contains(&n) {
        return fail(PARAM_INVALID, format!("compressInfo is {info:?}: k and n are out of range"));
    }
    Ok([tiling_k, tiling_n, k, n, direction])
}

/// The document's limit m ≤ 256 is not among these: its own example has 512 rows.
fn check_limits(k: i64, n: i64) -> Checked<()> {
    if k != 0 && (k % 64 != 0 || k <= 256) {
        return fail(PARAM_INVALID, format!("k is {k}, and must be a multiple of 64 above 256"));
    }
    if n != 0 && (n % 64 != 0 || n < 128) {
        return fail(PARAM_INVALID, format!("n is {n}, and must be a multiple of 64 from 128 on"));
    }
    Ok(())
}

fn check_layouts(tensors: &Tensors) -> Checked<()> {
    let Tensors { x1, x2, index, scale, out, .. } = tensors;
    let described = [("x1", x1), ("x2", x2), ("compressIndex", index), ("deqScale", scale), ("out", out)];
    let bias = tensors.bias.as_ref().map(|bias| ("bias", bias));
    described.into_iter().chain(bias).try_for_each(|(what, tensor)| check_layout(what, tensor))
}

fn check_layout(what: &str, tensor: &Tensor) -> Checked<()> {
    if tensor.format != FORMAT_ND {
        return fail(PARAM_INVALID, format!("{what} has format {} instead of ACL_FORMAT_ND", tensor.format));
    }
    if !tensor.is_contiguous() {
        return fail(
            PARAM_INVALID,
            format!(
                "{what} has strides {:?} for shape {:?}; only contiguous tensors are taken",
                tensor.strides, tensor.dims
            ),
        );
    }
    Ok(())
}

/// Checks the shapes of all but x1 and x2.
fn check_operands(tensors: &Tensors, [m, k, n]: [i64; 3]) -> Checked<()> {
    if tensors.out.dims != [m, n] {
        return fail(PARAM_INVALID, format!("out has shape {:?} instead of {:?}", tensors.out.dims, [m, n]));
    }
    if let Some(bias) = &tensors.bias
        && bias.dims != [n]
        && bias.dims != [1, n]
    {
        return fail(PARAM_INVALID, format!("bias has shape {:?} instead of {:?} or {:?}", bias.dims, [n], [1, n]));
    }
    let entries = [index_bytes(k, n)];
    if tensors.index.dims != entries {
        let found = &tensors.index.dims;
        return fail(
            PARAM_INVALID,
            format!("compressIndex has shape {found:?} instead of {entries:?}, 8 for each tile"),
        );
    }
    let scale = &tensors.scale.dims[..];
    if [&[n][..], &[1, n], &[1], &[1, 1]].contains(&scale) {
        return Ok(());
    }
    fail(PARAM_INVALID, format!("deqScale has shape {scale:?} instead of {:?}, {:?} or [1, 1]", [n], [1, n]))
}

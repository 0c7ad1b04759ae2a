//! Transpose and Reshape around the multiplication: the heads of an attention, put together in front and split behind.

use std::borrow::Cow;
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::sync::{Mutex, PoisonError};

use mcd_core::{Kernel, Matrix, Parallel, transpose};

use crate::ffi::{Dims, Error, KernelContext, KernelInfo, Value, element_count};
use crate::operator::Input;

/// How four dimensions are reordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// (0, 2, 1, 3): length and heads change places.
    Heads,
    /// (0, 2, 3, 1): the same, with the length last.
    HeadsTransposed,
}

impl Order {
    const fn perm(self) -> [i64; 4] {
        match self {
            Self::Heads => [0, 2, 1, 3],
            Self::HeadsTransposed => [0, 2, 3, 1],
        }
    }

    /// The dimensions in their new order.
    pub fn of(self, dims: [usize; 4]) -> [usize; 4] {
        self.perm().map(|from| dims[from as usize])
    }

    /// Copies elements of these dimensions to their places in the new order. What is copied is incomplete if the pool
    /// fails.
    ///
    /// # Panics
    /// If there are not as many elements as the dimensions say.
    pub fn permute<T: Moved>(self, from: &[T], dims: [usize; 4], to: &mut [MaybeUninit<T>], pool: &dyn Parallel) {
        let [batch, length, heads, size] = dims;
        let row = heads * size;
        assert!(from.len() == to.len() && from.len() == batch * length * row, "elements for {dims:?}");
        if from.is_empty() {
            return;
        }
        let tasks = if from.len() < 2 * PER_THREAD { 1 } else { pool.threads().min(from.len() / PER_THREAD) };
        let places = Mutex::new(to.chunks_exact_mut(length * size).enumerate());
        pool.run(tasks, &|_| {
            loop {
                let next = places.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some((at, to)) = next else { return };
                let from = &from[at / heads * length * row..][..length * row];
                let columns = at % heads * size..(at % heads + 1) * size;
                match self {
                    Self::Heads => {
                        for (to, from) in to.chunks_exact_mut(size).zip(from.chunks_exact(row)) {
                            let from = &from[columns.clone()];
                            to.iter_mut().zip(from).for_each(|(to, from)| *to = MaybeUninit::new(*from));
                        }
                    }
                    Self::HeadsTransposed => {
                        let elements = &from[columns.start..];
                        T::transpose(Matrix { elements, rows: length, columns: size, stride: row }, to);
                    }
                }
            }
        });
    }
}

/// Elements that make a second thread worth waking.
const PER_THREAD: usize = 1 << 17;

/// What a result consists of.
pub trait Moved: Copy + Send + Sync {
    /// The kernel that transposes it.
    fn transpose(from: Matrix<'_, Self>, to: &mut [MaybeUninit<Self>]) {
        transpose(from, to);
    }
}

impl Moved for u8 {}
impl Moved for u16 {}
impl Moved for u32 {
    fn transpose(from: Matrix<'_, Self>, to: &mut [MaybeUninit<Self>]) {
        Kernel::of_process().transpose_words(from, to);
    }
}

/// A shape to bring a tensor to, and an order that goes with it.
pub struct Layout {
    input: Input,
    pub order: Order,
    /// The shape, if it is an initializer.
    constant: Option<Vec<i64>>,
}

impl Layout {
    /// What a node has of the input `index` and the attribute `name`; the order must be one of `orders`.
    pub fn new(
        info: &KernelInfo<'_>,
        input: Input,
        present: bool,
        name: &CStr,
        orders: &[Order],
    ) -> Result<Option<Self>, Error> {
        let perm = info.optional_ints(name)?;
        let name = name.to_string_lossy();
        let order = match (perm, present) {
            (None, false) => return Ok(None),
            (None, true) => return Err(input.context(Error::invalid(format!("needs {name}")))),
            (Some(_), false) => return Err(input.context(Error::invalid(format!("is absent, and {name} is not")))),
            (Some(perm), true) => orders
                .iter()
                .copied()
                .find(|order| order.perm() == perm[..])
                .ok_or_else(|| Error::invalid(format!("{name} is {perm:?}, which is not supported")))?,
        };
        let constant = match info.constant_input(input)? {
            None => None,
            Some(value) => Some(numbers(&value).map_err(|error| input.context(error))?.into_owned()),
        };
        Ok(Some(Self { input, order, constant }))
    }

    /// The shape that a tensor of shape `from` is brought to in this call.
    pub fn shape(&self, context: &KernelContext<'_>, from: &[i64]) -> Result<Dims, Error> {
        match &self.constant {
            Some(shape) => reshape(from, shape),
            None => context.input(self.input).and_then(|value| reshape(from, &numbers(&value)?)),
        }
        .map_err(|error| self.input.context(error))
    }
}

/// The elements of an int64 tensor of one dimension.
fn numbers<'a>(value: &Value<'a>) -> Result<Cow<'a, [i64]>, Error> {
    let mut dims = Dims::new();
    let numbers = value.read::<i64>(&mut dims)?;
    if dims.len() != 1 {
        return Err(Error::invalid(format!("has shape {:?} instead of one dimension", &dims[..])));
    }
    Ok(numbers)
}

/// The shape that ONNX's Reshape makes: 0 takes over a dimension, and one -1 is what remains.
fn reshape(from: &[i64], shape: &[i64]) -> Result<Dims, Error> {
    let refused = || Error::invalid(format!("is {shape:?}, which a tensor of shape {from:?} cannot be brought to"));
    let mut dims = Dims::with_capacity(shape.len());
    let mut rest = None;
    for (position, &size) in shape.iter().enumerate() {
        dims.push(match size {
            0 => *from.get(position).ok_or_else(refused)?,
            -1 if rest.is_none() => {
                rest = Some(position);
                1
            }
            ..=-1 => return Err(refused()),
            size => size,
        });
    }
    let (count, known) = (element_count(from)?, element_count(&dims).map_err(|_| refused())?);
    match rest {
        None if known == count => {}
        Some(position) if known != 0 && count.is_multiple_of(known) => dims[position] = (count / known) as i64,
        _ => return Err(refused()),
    }
    Ok(dims)
}

/// The dimensions of a tensor that must have four.
pub fn four(dims: &[i64]) -> Result<[usize; 4], Error> {
    let four: Option<[i64; 4]> = dims.try_into().ok();
    four.and_then(|dims| {
        let sizes = dims.map(usize::try_from);
        sizes.iter().all(Result::is_ok).then(|| sizes.map(Result::unwrap_or_default))
    })
    .ok_or_else(|| Error::invalid(format!("has shape {dims:?} instead of four dimensions")))
}

/// `four` dimensions as onnxruntime has them.
pub fn dims(four: [usize; 4]) -> Dims {
    four.iter().map(|&size| size as i64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mcd_core::Serial;

    #[test]
    fn shapes_are_made_as_onnx_makes_them() {
        for (from, shape, made) in [
            (&[2, 3, 8][..], &[0, 0, 2, 4][..], Some(&[2, 3, 2, 4][..])),
            (&[2, 3, 8], &[0, -1, 2, 4], Some(&[2, 3, 2, 4])),
            (&[2, 3, 8], &[6, -1], Some(&[6, 8])),
            (&[2, 0, 8], &[0, 0, 2, 4], Some(&[2, 0, 2, 4])),
            (&[2, 0, 8], &[3, 0, 2, 4], Some(&[3, 0, 2, 4])),
            (&[2, 0, 8], &[0, 0, -1, 4], None),
            (&[2, 0, 8], &[2, -1, 2, 4], Some(&[2, 0, 2, 4])),
            (&[2, 3, 8], &[0, 0, 2, 3], None),
            (&[2, 3, 8], &[-1, -1, 8], None),
            (&[2, 3, 8], &[-2, -3, 8], None),
            (&[2, 3, 8], &[2, 3, 8, 0], None),
            (&[2, 3, 8], &[5, -1], None),
            (&[2, 3, 8], &[i64::MAX, i64::MAX], None),
            (&[2, 3, 8], &[i64::MIN], None),
            (&[1], &[], Some(&[])),
        ] {
            assert_eq!(reshape(from, shape).ok().as_deref(), made, "{from:?} {shape:?}");
        }
    }

    #[test]
    fn every_element_finds_its_place() {
        for dims in [[1, 1, 1, 1], [2, 3, 4, 5], [1, 8, 2, 8], [2, 17, 3, 11], [1, 24, 1, 16], [3, 0, 2, 4]] {
            let [batch, length, heads, size] = dims;
            let from: Vec<u32> = (0..(batch * length * heads * size) as u32).collect();
            for order in [Order::Heads, Order::HeadsTransposed] {
                let mut to = vec![MaybeUninit::new(u32::MAX); from.len()];
                order.permute(&from, dims, &mut to, &Serial);
                let [_, d1, d2, d3] = order.of(dims);
                for (at, &value) in from.iter().enumerate() {
                    let (b, s, h, d) =
                        (at / (length * heads * size), at / (heads * size) % length, at / size % heads, at % size);
                    let [i, j, k] = if order == Order::Heads { [h, s, d] } else { [h, d, s] };
                    // SAFETY: it was initialised above.
                    let found = unsafe { to[((b * d1 + i) * d2 + j) * d3 + k].assume_init() };
                    assert_eq!(found, value, "{order:?} {dims:?}");
                }
            }
        }
    }
}

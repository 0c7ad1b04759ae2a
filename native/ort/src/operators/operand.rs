//! Optional inputs that are one number or one per column: prepared once when constant, read at every call otherwise.

use std::borrow::Cow;

use crate::ffi::{Dims, Element, Error, KernelContext, KernelInfo, Value, with_room};
use crate::operator::Input;

/// One value for all columns, or one each.
#[derive(Debug, Clone, PartialEq)]
pub enum Columns<'a, T: Clone> {
    All(T),
    Each(Cow<'a, [T]>),
}

impl<'a, T: Clone> Columns<'a, T> {
    /// The same values, converted.
    pub fn map<U: Clone>(self, convert: impl Fn(&T) -> U) -> Result<Columns<'a, U>, Error> {
        Ok(match self {
            Self::All(value) => Columns::All(convert(&value)),
            Self::Each(values) => {
                let mut converted = with_room(values.len(), "an operand")?;
                converted.extend(values.iter().map(convert));
                Columns::Each(Cow::Owned(converted))
            }
        })
    }

    /// One value per column, whichever way they came.
    fn each(self) -> Columns<'a, T> {
        match self {
            Self::All(value) => Columns::Each(vec![value].into()),
            each => each,
        }
    }

    /// The same values, kept beyond the tensor they came from.
    fn into_owned(self) -> Result<Columns<'static, T>, Error> {
        Ok(match self {
            Self::All(value) => Columns::All(value),
            Self::Each(Cow::Owned(values)) => Columns::Each(Cow::Owned(values)),
            Self::Each(Cow::Borrowed(values)) => {
                let mut owned = with_room(values.len(), "an operand")?;
                owned.extend_from_slice(values);
                Columns::Each(Cow::Owned(owned))
            }
        })
    }

    /// The same values, borrowed.
    fn borrowed(&self) -> Columns<'_, T> {
        match self {
            Self::All(value) => Columns::All(value.clone()),
            Self::Each(values) => Columns::Each(Cow::Borrowed(values)),
        }
    }
}

/// How a tensor with one value, or `n`, is read.
pub type Read<T> = for<'a> fn(&Value<'a>, n: usize, &mut Dims) -> Result<Columns<'a, T>, Error>;

/// An optional input.
pub struct Operand<T: Clone + 'static> {
    input: Input,
    n: usize,
    state: State<T>,
}

enum State<T: Clone + 'static> {
    Absent,
    Constant(Columns<'static, T>),
    Computed(Read<T>),
}

impl<T: Clone> Operand<T> {
    /// An input that the node does not have.
    pub fn absent(input: Input) -> Self {
        Self { input, n: 1, state: State::Absent }
    }

    /// An input of the node, with one value or `n`; a constant is read and checked here.
    pub fn present(info: &KernelInfo<'_>, input: Input, n: usize, read: Read<T>) -> Result<Self, Error> {
        let state = match info.constant_input(input)? {
            None => State::Computed(read),
            Some(value) => {
                let columns = read(&value, n, &mut Dims::new()).map_err(|error| input.context(error))?;
                State::Constant(columns.into_owned().map_err(|error| input.context(error))?)
            }
        };
        Ok(Self { input, n, state })
    }

    /// The values for this call.
    #[inline]
    pub fn get<'a>(&'a self, context: &KernelContext<'a>, dims: &mut Dims) -> Result<Option<Columns<'a, T>>, Error> {
        match &self.state {
            State::Absent => Ok(None),
            State::Constant(columns) => Ok(Some(columns.borrowed())),
            State::Computed(read) => context
                .input(self.input)
                .and_then(|value| read(&value, self.n, dims))
                .map(Some)
                .map_err(|error| self.input.context(error)),
        }
    }

    /// The value for this call of an operand that has just one.
    #[inline]
    pub fn scalar<'a>(&'a self, context: &KernelContext<'a>, dims: &mut Dims) -> Result<Option<T>, Error> {
        Ok(self.get(context, dims)?.map(|columns| match columns {
            Columns::All(value) => value,
            Columns::Each(values) => values[0].clone(),
        }))
    }
}

/// Whether a tensor holds one value for all columns.
///
/// Allowed shapes are (), (1,) and (1, 1) for one, (n,) and (1, n) for one each.
fn is_scalar(dims: &[i64], n: usize, each: &str) -> Result<bool, Error> {
    match *dims {
        [] | [1] | [1, 1] => Ok(true),
        [columns] | [1, columns] if usize::try_from(columns) == Ok(n) => Ok(false),
        _ if n == 1 => Err(Error::invalid(format!("has shape {dims:?} instead of one value"))),
        _ => Err(Error::invalid(format!("has shape {dims:?} instead of one value or {n}, one per {each}"))),
    }
}

/// Reads a tensor of `T` as it is.
fn read<'a, T: Element>(value: &Value<'a>, n: usize, dims: &mut Dims) -> Result<Columns<'a, T>, Error> {
    read_each(value, n, dims, "column")
}

/// As [`read`]; what is not a scalar has a value for each of what `each` says.
fn read_each<'a, T: Element>(
    value: &Value<'a>,
    n: usize,
    dims: &mut Dims,
    each: &str,
) -> Result<Columns<'a, T>, Error> {
    let values = value.read::<T>(dims)?;
    // A column count of zero has no shape of its own here: the container has no such weight.
    Ok(if is_scalar(dims, n, each)? { Columns::All(values[0]) } else { Columns::Each(values) })
}

/// float tensors.
pub fn floats<'a>(value: &Value<'a>, n: usize, dims: &mut Dims) -> Result<Columns<'a, f32>, Error> {
    read::<f32>(value, n, dims)
}

/// float tensors of a value for each row.
pub fn floats_of_rows<'a>(value: &Value<'a>, n: usize, dims: &mut Dims) -> Result<Columns<'a, f32>, Error> {
    read_each::<f32>(value, n, dims, "row")
}

/// float16 tensors.
pub fn halves<'a>(value: &Value<'a>, n: usize, dims: &mut Dims) -> Result<Columns<'a, f32>, Error> {
    read::<half::f16>(value, n, dims)?.map(|half| half.to_f32())
}

/// uint64 tensors that hold fp32 bit patterns, zero-extended.
pub fn float_bits<'a>(value: &Value<'a>, n: usize, dims: &mut Dims) -> Result<Columns<'a, f32>, Error> {
    let columns = read::<u64>(value, n, dims)?;
    let wide = |bits: &u64| *bits > u64::from(u32::MAX);
    let bad = match &columns {
        Columns::All(bits) => wide(bits),
        Columns::Each(bits) => bits.iter().any(wide),
    };
    if bad {
        return Err(Error::invalid("has bits above the low 32, which should hold an fp32 value"));
    }
    columns.map(|bits| f32::from_bits(*bits as u32))
}

/// uint8 or int8 tensors.
pub fn small_integers<'a, T: Element + Into<i32>>(
    value: &Value<'a>,
    n: usize,
    dims: &mut Dims,
) -> Result<Columns<'a, i32>, Error> {
    read::<T>(value, n, dims)?.map(|&integer| integer.into())
}

/// int32 tensors of one value per column.
pub fn bias<'a>(value: &Value<'a>, n: usize, dims: &mut Dims) -> Result<Columns<'a, i32>, Error> {
    let columns = read::<i32>(value, n, dims)?;
    if matches!(columns, Columns::All(_)) && n != 1 {
        return Err(Error::invalid(format!("has shape {:?} instead of {n} values", &dims[..])));
    }
    Ok(columns.each())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_of_one_value_and_of_one_per_column() {
        for dims in [&[][..], &[1], &[1, 1]] {
            assert!(is_scalar(dims, 3, "column").unwrap(), "{dims:?}");
            assert!(is_scalar(dims, 1, "column").unwrap(), "{dims:?}");
        }
        for dims in [&[3][..], &[1, 3]] {
            assert!(!is_scalar(dims, 3, "column").unwrap(), "{dims:?}");
        }
        for dims in [&[2][..], &[3, 1], &[1, 1, 3], &[0], &[1, 1, 1], &[-1]] {
            let error = is_scalar(dims, 3, "column").unwrap_err().to_string();
            assert!(error.contains(&format!("{dims:?}")), "{error}");
        }
    }

    #[test]
    fn columns_convert_and_outlive_their_tensor() {
        let values = [1_u8, 200];
        let columns =
            Columns::Each(Cow::Borrowed(&values[..])).map(|&value| i32::from(value)).unwrap().into_owned().unwrap();
        assert_eq!(columns, Columns::Each(vec![1, 200].into()));
        assert_eq!(columns.borrowed(), columns);
        assert_eq!(Columns::All(7).each(), Columns::Each(vec![7].into()));
    }
}

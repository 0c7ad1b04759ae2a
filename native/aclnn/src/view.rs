//! Elements that do not lie one behind the other: strided views, and matrices in fractals.

use std::borrow::Cow;

use crate::status::{Checked, FAILURE, fail};
use crate::tensor::{FORMAT_FRACTAL_NZ, Tensor};

/// Rows and columns of a fractal of int8.
const FRACTAL: [usize; 2] = [16, 32];

/// How the elements of a tensor lie, from its first element on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum View {
    /// One behind the other.
    Contiguous,
    /// At strides.
    Strided { dims: Vec<usize>, strides: Vec<usize> },
    /// A matrix of int8 in FRACTAL_NZ: (columns / 32, rows / 16, 16, 32), padded.
    Fractals { rows: usize, columns: usize },
}

impl View {
    /// A tensor's.
    pub fn of(tensor: &Tensor) -> Self {
        // Descriptions with negative numbers are refused at creation.
        let sizes = |list: &[i64]| list.iter().map(|&size| size as usize).collect::<Vec<_>>();
        match tensor.dims[..] {
            [rows, columns] if tensor.format == FORMAT_FRACTAL_NZ => {
                Self::Fractals { rows: rows as usize, columns: columns as usize }
            }
            _ if tensor.is_contiguous() => Self::Contiguous,
            _ => Self::Strided { dims: sizes(&tensor.dims), strides: sizes(&tensor.strides) },
        }
    }

    /// The elements one behind the other.
    pub fn gather<'a, T: Copy>(&self, elements: &'a [T]) -> Checked<Cow<'a, [T]>> {
        let (count, offsets): (usize, Box<dyn Iterator<Item = usize>>) = match self {
            Self::Contiguous => return Ok(Cow::Borrowed(elements)),
            Self::Strided { dims, strides } => (dims.iter().product(), Box::new(offsets(dims, strides))),
            &Self::Fractals { rows, columns } => {
                let places = move |at: usize| place_in_fractals(at / columns, at % columns, rows);
                (rows * columns, Box::new((0..rows * columns).map(places)))
            }
        };
        let mut gathered = reserve(count)?;
        gathered.extend(offsets.map(|at| elements[at]));
        Ok(Cow::Owned(gathered))
    }

    /// Writes `values` to where the elements lie.
    pub fn scatter<T: Copy>(&self, values: &[T], elements: &mut [T]) {
        match self {
            Self::Strided { dims, strides } => {
                offsets(dims, strides).zip(values).for_each(|(at, &value)| elements[at] = value);
            }
            _ => elements.copy_from_slice(values),
        }
    }
}

/// Room for elements.
pub fn reserve<T>(count: usize) -> Checked<Vec<T>> {
    let mut room = Vec::new();
    match room.try_reserve_exact(count) {
        Ok(()) => Ok(room),
        Err(_) => fail(FAILURE, format!("there is no memory for {count} elements")),
    }
}

/// Elements of a matrix in fractals, with its padding; 0 for what is no matrix.
pub fn fractal_elements(dims: &[i64]) -> usize {
    match dims {
        [rows, columns] => (*rows as usize)
            .next_multiple_of(FRACTAL[0])
            .saturating_mul((*columns as usize).next_multiple_of(FRACTAL[1])),
        _ => 0,
    }
}

fn place_in_fractals(row: usize, column: usize, rows: usize) -> usize {
    let [height, width] = FRACTAL;
    let fractal = column / width * rows.div_ceil(height) + row / height;
    (fractal * height + row % height) * width + column % width
}

/// Offsets of the elements of a strided view, the last dimension fastest.
fn offsets<'a>(dims: &'a [usize], strides: &'a [usize]) -> impl Iterator<Item = usize> + 'a {
    (0..dims.iter().product()).map(move |mut at: usize| {
        let mut offset = 0;
        for (dim, stride) in dims.iter().zip(strides).rev() {
            offset += at % dim * stride;
            at /= dim;
        }
        offset
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides_are_followed_both_ways() {
        let view = View::Strided { dims: vec![2, 3], strides: vec![1, 2] };
        let columns = [1, 4, 2, 5, 3, 6];
        assert_eq!(*view.gather(&columns).unwrap(), [1, 2, 3, 4, 5, 6]);
        let mut written = [0; 6];
        view.scatter(&[1, 2, 3, 4, 5, 6], &mut written);
        assert_eq!(written, columns);
    }

    #[test]
    fn fractals_are_columns_of_16_rows() {
        let (rows, columns) = (18, 33);
        let mut stored = vec![-1_i32; 32 * 64];
        assert_eq!(fractal_elements(&[18, 33]), stored.len());
        for row in 0..rows {
            for column in 0..columns {
                let [k1, k0, m1, m0] = [column / 32, column % 32, row / 16, row % 16];
                stored[((k1 * 2 + m1) * 16 + m0) * 32 + k0] = (row * columns + column) as i32;
            }
        }
        let expected: Vec<i32> = (0..(rows * columns) as i32).collect();
        assert_eq!(*View::Fractals { rows, columns }.gather(&stored).unwrap(), expected);
    }
}

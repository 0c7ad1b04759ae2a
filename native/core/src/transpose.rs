//! Transposition: results that are wanted with their rows last.

use std::mem::MaybeUninit;

/// A matrix in memory, row by row.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a, T> {
    /// From the first element to the last, whole rows but for what follows the last one's columns.
    pub elements: &'a [T],
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub columns: usize,
    /// Distance of rows; `columns` at least.
    pub stride: usize,
}

impl<T> Matrix<'_, T> {
    /// # Panics
    /// If the elements are fewer than the shape needs, or `out` has not room for the transpose.
    pub(crate) fn check(&self, out: usize) {
        let Self { elements, rows, columns, stride } = self;
        let needed = rows.checked_sub(1).and_then(|before| before.checked_mul(*stride)?.checked_add(*columns));
        assert!(columns <= stride && needed.unwrap_or(0) <= elements.len(), "a matrix is as large as it says");
        assert!(rows.checked_mul(*columns) == Some(out), "room for the transpose");
    }
}

/// Writes the transpose of `from`, row by row, (columns, rows).
///
/// # Panics
/// If `from` or `to` has not as many elements as the shape of `from` needs.
pub fn transpose<T: Copy>(from: Matrix<'_, T>, to: &mut [MaybeUninit<T>]) {
    from.check(to.len());
    transpose_from(from, to, 0, 0);
}

/// What is left when the first rows are done in the first columns.
pub(crate) fn transpose_from<T: Copy>(from: Matrix<'_, T>, to: &mut [MaybeUninit<T>], rows: usize, columns: usize) {
    for i in 0..from.rows {
        for j in if i < rows { columns } else { 0 }..from.columns {
            to[j * from.rows + i] = MaybeUninit::new(from.elements[i * from.stride + j]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::Kernel;

    #[test]
    fn vectors_and_scalars_agree() {
        for rows in [0, 1, 7, 8, 9, 16, 23, 40] {
            for columns in [0, 1, 7, 8, 15, 24, 33] {
                for stride in [columns, columns + 1, columns + 13] {
                    let len = if rows == 0 { 0 } else { (rows - 1) * stride + columns };
                    let elements: Vec<u32> = (0..len as u32).map(|i| i.wrapping_mul(0x9e37_79b9)).collect();
                    let from = Matrix { elements: &elements, rows, columns, stride };
                    let mut scalar = vec![MaybeUninit::new(1); rows * columns];
                    transpose(from, &mut scalar);
                    for kernel in Kernel::available() {
                        let mut vector = vec![MaybeUninit::new(2); rows * columns];
                        kernel.transpose_words(from, &mut vector);
                        for j in 0..columns {
                            for i in 0..rows {
                                // SAFETY: both were initialised when they were made.
                                let found = unsafe {
                                    (scalar[j * rows + i].assume_init(), vector[j * rows + i].assume_init())
                                };
                                let expected = elements[i * stride + j];
                                assert_eq!(
                                    found,
                                    (expected, expected),
                                    "{rows} × {columns}, {stride} apart, {kernel:?}"
                                );
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "a matrix is as large as it says")]
    fn a_matrix_that_is_too_short_is_refused() {
        Kernel::best().transpose_words(
            Matrix { elements: &[0; 15], rows: 2, columns: 8, stride: 8 },
            &mut [MaybeUninit::uninit(); 16],
        );
    }

    #[test]
    #[should_panic(expected = "room for the transpose")]
    fn a_transpose_without_room_is_refused() {
        Kernel::best().transpose_words(
            Matrix { elements: &[0; 16], rows: 2, columns: 8, stride: 8 },
            &mut [MaybeUninit::uninit(); 15],
        );
    }
}

//! Transposition of 32-bit words: results that are wanted with their rows last.

use std::mem::MaybeUninit;

/// Rows and columns that are transposed in registers.
#[cfg(target_arch = "x86_64")]
const PIECE: usize = 8;

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
    fn check(&self, out: usize) {
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

/// [`transpose`] for 32-bit words, by what vectors the processor has.
///
/// # Panics
/// As [`transpose`].
pub fn transpose_words(from: Matrix<'_, u32>, to: &mut [MaybeUninit<u32>]) {
    from.check(to.len());
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        let (rows, columns) = (from.rows - from.rows % PIECE, from.columns - from.columns % PIECE);
        // Rows of the transpose outside, so that it is written in order.
        for j in (0..columns).step_by(PIECE) {
            for i in (0..rows).step_by(PIECE) {
                // SAFETY: the processor has AVX2. The piece's rows and columns exist, as `check` has seen: it reads
                // 8 words from each of 8 rows, and writes as many to rows j to j + 7 of the transpose.
                unsafe {
                    let piece = from.elements.as_ptr().add(i * from.stride + j);
                    transpose_piece(
                        piece,
                        from.stride,
                        to.as_mut_ptr().cast::<u32>().add(j * from.rows + i),
                        from.rows,
                    );
                }
            }
        }
        transpose_from(from, to, rows, columns);
        return;
    }
    transpose_from(from, to, 0, 0);
}

/// What is left when the first rows are done in the first columns.
fn transpose_from<T: Copy>(from: Matrix<'_, T>, to: &mut [MaybeUninit<T>], rows: usize, columns: usize) {
    for i in 0..from.rows {
        for j in if i < rows { columns } else { 0 }..from.columns {
            to[j * from.rows + i] = MaybeUninit::new(from.elements[i * from.stride + j]);
        }
    }
}

/// # Safety
/// The processor has AVX2. 8 words can be read from each of 8 rows, `stride` apart from `from` on, and written to as
/// many rows, `to_stride` apart from `to` on.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn transpose_piece(from: *const u32, stride: usize, to: *mut u32, to_stride: usize) {
    use std::arch::x86_64::{
        __m256i, _mm256_loadu_si256, _mm256_permute2x128_si256, _mm256_storeu_si256, _mm256_unpackhi_epi32,
        _mm256_unpackhi_epi64, _mm256_unpacklo_epi32, _mm256_unpacklo_epi64,
    };
    // SAFETY: the caller's contract.
    let row = |i: usize| unsafe { _mm256_loadu_si256(from.add(i * stride).cast()) };
    let mut r: [__m256i; 8] = [row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7)];
    // Pairs of rows, then fours, within halves of 128 bits.
    let mut t = r;
    for i in (0..8).step_by(2) {
        t[i] = _mm256_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_epi32(r[i], r[i + 1]);
    }
    for i in (0..8).step_by(4) {
        r[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for i in 0..4 {
        let (low, high) =
            (_mm256_permute2x128_si256(r[i], r[i + 4], 0x20), _mm256_permute2x128_si256(r[i], r[i + 4], 0x31));
        // SAFETY: the caller's contract.
        unsafe {
            _mm256_storeu_si256(to.add(i * to_stride).cast(), low);
            _mm256_storeu_si256(to.add((i + 4) * to_stride).cast(), high);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_and_scalars_agree() {
        for rows in [0, 1, 7, 8, 9, 16, 23, 40] {
            for columns in [0, 1, 7, 8, 15, 24, 33] {
                for stride in [columns, columns + 1, columns + 13] {
                    let len = if rows == 0 { 0 } else { (rows - 1) * stride + columns };
                    let elements: Vec<u32> = (0..len as u32).map(|i| i.wrapping_mul(0x9e37_79b9)).collect();
                    let from = Matrix { elements: &elements, rows, columns, stride };
                    let (mut scalar, mut vector) = (vec![MaybeUninit::new(1); rows * columns], Vec::new());
                    vector.resize(rows * columns, MaybeUninit::new(2));
                    transpose(from, &mut scalar);
                    transpose_words(from, &mut vector);
                    for j in 0..columns {
                        for i in 0..rows {
                            // SAFETY: both were initialised when they were made.
                            let found =
                                unsafe { (scalar[j * rows + i].assume_init(), vector[j * rows + i].assume_init()) };
                            let expected = elements[i * stride + j];
                            assert_eq!(found, (expected, expected), "{rows} × {columns}, {stride} apart");
                        }
                    }
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "a matrix is as large as it says")]
    fn a_matrix_that_is_too_short_is_refused() {
        transpose_words(
            Matrix { elements: &[0; 15], rows: 2, columns: 8, stride: 8 },
            &mut [MaybeUninit::uninit(); 16],
        );
    }

    #[test]
    #[should_panic(expected = "room for the transpose")]
    fn a_transpose_without_room_is_refused() {
        transpose_words(
            Matrix { elements: &[0; 16], rows: 2, columns: 8, stride: 8 },
            &mut [MaybeUninit::uninit(); 15],
        );
    }
}

//! Transposition of strided matrices of bytes and words, by instructions that every processor of a family has.
//!
//! Activations of convolutions come as channels × pixels and leave as that; kernels want pixels × channels.

use std::mem::MaybeUninit;

/// A matrix in memory, from its first element on, rows `stride` elements apart.
#[derive(Debug, Clone, Copy)]
pub struct Strided<P> {
    /// The first element of the first row.
    pub at: P,
    /// Distance of rows.
    pub stride: usize,
}

/// Rows and columns of a block of bytes that is transposed in registers.
const BYTES: usize = 16;
/// Of words.
const WORDS: usize = 4;

/// Writes the transpose of a matrix of `rows` × `columns` bytes, each exclusive-or `flip`.
///
/// # Safety
/// `from` can be read, and `to`, `columns` × `rows`, written; they do not overlap.
pub unsafe fn transpose_bytes(
    from: Strided<*const u8>,
    (rows, columns): (usize, usize),
    to: Strided<*mut MaybeUninit<u8>>,
    flip: u8,
) {
    let whole = (rows - rows % BYTES, columns - columns % BYTES);
    for j in (0..whole.1).step_by(BYTES) {
        for i in (0..whole.0).step_by(BYTES) {
            // SAFETY: the block is inside of both, by the caller's contract.
            unsafe { block_of_bytes(from.block(i, j), to.block(j, i), flip) };
        }
    }
    // SAFETY: as above.
    unsafe { rest(from, (rows, columns), whole, to, |byte| byte ^ flip) };
}

/// Writes the transpose of a matrix of `rows` × `columns` words.
///
/// # Safety
/// As [`transpose_bytes`].
pub unsafe fn transpose_words(
    from: Strided<*const u32>,
    (rows, columns): (usize, usize),
    to: Strided<*mut MaybeUninit<u32>>,
) {
    let whole = (rows - rows % WORDS, columns - columns % WORDS);
    for j in (0..whole.1).step_by(WORDS) {
        for i in (0..whole.0).step_by(WORDS) {
            // SAFETY: the block is inside of both, by the caller's contract.
            unsafe { block_of_words(from.block(i, j), to.block(j, i)) };
        }
    }
    // SAFETY: as above.
    unsafe { rest(from, (rows, columns), whole, to, |word| word) };
}

impl<T> Strided<*const T> {
    /// # Safety
    /// The element at row `i`, column `j` exists.
    unsafe fn block(self, i: usize, j: usize) -> Self {
        // SAFETY: the caller's contract.
        Self { at: unsafe { self.at.add(i * self.stride + j) }, ..self }
    }
}

impl<T> Strided<*mut T> {
    /// # Safety
    /// The element at row `i`, column `j` exists.
    unsafe fn block(self, i: usize, j: usize) -> Self {
        // SAFETY: the caller's contract.
        Self { at: unsafe { self.at.add(i * self.stride + j) }, ..self }
    }
}

/// Writes what is left when the first rows of the first columns are done.
///
/// # Safety
/// As [`transpose_bytes`].
unsafe fn rest<T: Copy>(
    from: Strided<*const T>,
    (rows, columns): (usize, usize),
    whole: (usize, usize),
    to: Strided<*mut MaybeUninit<T>>,
    change: impl Fn(T) -> T,
) {
    for i in 0..rows {
        for j in if i < whole.0 { whole.1 } else { 0 }..columns {
            // SAFETY: the caller's contract.
            unsafe { (*to.at.add(j * to.stride + i)).write(change(*from.at.add(i * from.stride + j))) };
        }
    }
}

/// Transposes 16 × 16 bytes.
///
/// # Safety
/// As [`transpose_bytes`].
#[cfg(target_arch = "x86_64")]
unsafe fn block_of_bytes(from: Strided<*const u8>, to: Strided<*mut MaybeUninit<u8>>, flip: u8) {
    use std::arch::x86_64::*;
    // SAFETY: SSE2 belongs to x86-64; the rest is the caller's contract.
    unsafe {
        let flip = _mm_set1_epi8(flip.cast_signed());
        let mut r: [__m128i; BYTES] =
            std::array::from_fn(|i| _mm_xor_si128(_mm_loadu_si128(from.at.add(i * from.stride).cast()), flip));
        // Rows i and i + 8 interleaved become rows 2 i and 2 i + 1: four times, and every byte is where it belongs.
        for _ in 0..4 {
            let t = r;
            for i in 0..BYTES / 2 {
                r[2 * i] = _mm_unpacklo_epi8(t[i], t[i + BYTES / 2]);
                r[2 * i + 1] = _mm_unpackhi_epi8(t[i], t[i + BYTES / 2]);
            }
        }
        for (i, row) in r.into_iter().enumerate() {
            _mm_storeu_si128(to.at.add(i * to.stride).cast(), row);
        }
    }
}

/// Transposes 4 × 4 words.
///
/// # Safety
/// As [`transpose_words`].
#[cfg(target_arch = "x86_64")]
unsafe fn block_of_words(from: Strided<*const u32>, to: Strided<*mut MaybeUninit<u32>>) {
    use std::arch::x86_64::*;
    // SAFETY: SSE2 belongs to x86-64; the rest is the caller's contract.
    unsafe {
        let row = |i: usize| _mm_loadu_si128(from.at.add(i * from.stride).cast());
        let (a, b, c, d) = (row(0), row(1), row(2), row(3));
        let (ab, cd) = (_mm_unpacklo_epi32(a, b), _mm_unpacklo_epi32(c, d));
        let (ab2, cd2) = (_mm_unpackhi_epi32(a, b), _mm_unpackhi_epi32(c, d));
        let rows = [
            _mm_unpacklo_epi64(ab, cd),
            _mm_unpackhi_epi64(ab, cd),
            _mm_unpacklo_epi64(ab2, cd2),
            _mm_unpackhi_epi64(ab2, cd2),
        ];
        for (i, row) in rows.into_iter().enumerate() {
            _mm_storeu_si128(to.at.add(i * to.stride).cast(), row);
        }
    }
}

/// Transposes 16 × 16 bytes.
///
/// # Safety
/// As [`transpose_bytes`].
#[cfg(not(target_arch = "x86_64"))]
unsafe fn block_of_bytes(from: Strided<*const u8>, to: Strided<*mut MaybeUninit<u8>>, flip: u8) {
    // SAFETY: the caller's contract.
    unsafe { rest(from, (BYTES, BYTES), (0, 0), to, |byte| byte ^ flip) };
}

/// Transposes 4 × 4 words.
///
/// # Safety
/// As [`transpose_words`].
#[cfg(not(target_arch = "x86_64"))]
unsafe fn block_of_words(from: Strided<*const u32>, to: Strided<*mut MaybeUninit<u32>>) {
    // SAFETY: the caller's contract.
    unsafe { rest(from, (WORDS, WORDS), (0, 0), to, |word| word) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Transposes a matrix with strides of its own, and checks every element, those beside the matrix included.
    fn check<T: Copy + PartialEq + std::fmt::Debug>(
        element: impl Fn(usize) -> T,
        changed: impl Fn(T) -> T,
        run: impl Fn(Strided<*const T>, (usize, usize), Strided<*mut MaybeUninit<T>>),
    ) {
        for rows in [0, 1, 3, 4, 15, 16, 17, 33, 48] {
            for columns in [0, 1, 5, 16, 31, 32, 40] {
                let (stride, to_stride) = (columns + 3, rows + 5);
                let from: Vec<T> = (0..rows * stride + 1).map(&element).collect();
                let untouched = element(977);
                let mut to = vec![MaybeUninit::new(untouched); columns * to_stride + 1];
                run(
                    Strided { at: from.as_ptr(), stride },
                    (rows, columns),
                    Strided { at: to.as_mut_ptr(), stride: to_stride },
                );
                for (at, found) in to.into_iter().enumerate() {
                    let (j, i) = (at / to_stride, at % to_stride);
                    let inside = j < columns && i < rows;
                    let expected = if inside { changed(from[i * stride + j]) } else { untouched };
                    // SAFETY: all of it was initialised above.
                    assert_eq!(unsafe { found.assume_init() }, expected, "{rows} × {columns} at {at}");
                }
            }
        }
    }

    #[test]
    fn bytes_go_where_they_belong() {
        for flip in [0, 0x80] {
            check(
                |i| (i.wrapping_mul(2_654_435_761) >> 7) as u8,
                |byte| byte ^ flip,
                // SAFETY: `check` gives matrices of this shape.
                |from, shape, to| unsafe { transpose_bytes(from, shape, to, flip) },
            );
        }
    }

    #[test]
    fn words_go_where_they_belong() {
        // SAFETY: `check` gives matrices of this shape.
        let run = |from: Strided<*const u32>, shape, to: Strided<*mut MaybeUninit<u32>>| unsafe {
            transpose_words(from, shape, to);
        };
        check(|i| (i as u32).wrapping_mul(2_654_435_761), |word| word, run);
    }
}

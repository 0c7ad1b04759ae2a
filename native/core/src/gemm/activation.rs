//! Activations as the kernels take them: int8, rows padded with zeros to whole fractals, and the sum of each row.

use super::ranges::pieces;
use crate::aligned::{Aligned, LINE};
use crate::arch::rows::ActivationRow;
use crate::arch::{Extent, PIECE_K, Pieces, Places, RowKernel, Rows};
use crate::error::{Error, resize};
use crate::geometry::FRACTAL_K;
use crate::parallel::Barrier;
use crate::quantize::{self, Quantizer};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// What the kernels' operand falls short of uint8 activations by.
pub(super) const SHIFT: i32 = 128;

/// (m, k) activations, row-major.
#[derive(Debug, Clone, Copy)]
pub enum Activation<'a> {
    /// uint8.
    U8(&'a [u8]),
    /// int8.
    I8(&'a [i8]),
    /// Floats, quantised to uint8 by the range that they have, as `DynamicQuantizeLinear` does it: see
    /// [`quantize`](crate::quantize).
    F32(&'a [f32], Option<SplitHeads>),
    /// int8 rows that somebody else puts together.
    Rows(&'a dyn RowSource),
}

/// Rows of activations that are put together when they are packed, in any order and by several threads.
pub trait RowSource: std::fmt::Debug + Sync {
    /// Of all rows.
    fn elements(&self) -> usize;
    /// What the elements fall short of the activation by.
    fn shift(&self) -> i32;
    /// Writes row `row`, by a kernel's way to pack rows; the sum of its elements.
    fn pack(&self, kernel: &dyn RowKernel, row: usize, to: &mut [i8]) -> i32;
    /// Writes some rows of uint8 activations as they are, so many bytes apart.
    fn copy(&self, rows: Range<usize>, to: &mut [u8], stride: usize);
    /// The bytes that rows of uint8 activations lie in, in pieces at the places that are filled in, if they lie like that.
    fn in_pieces(&self, places: &mut Places) -> Result<Option<&[u8]>, Error>;
}

/// Activations as attention leaves them: (batch, heads, rows, columns), of which (batch, rows, heads, columns) is
/// multiplied, its elements cut into rows of k.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SplitHeads {
    /// Heads of an element of the batch.
    pub heads: usize,
    /// Rows of a head.
    pub rows: usize,
    /// Columns of a head.
    pub columns: usize,
}

impl<'a> Activation<'a> {
    /// Where rows of k uint8 activations lie, if they need not be packed: `multiple` is what a kernel wants their length to be one of.
    pub(super) fn in_place(
        &self,
        (k, multiple): (usize, usize),
        in_pieces: bool,
        places: &'a mut Places,
    ) -> Result<Option<InPlace<'a>>, Error> {
        Ok(match *self {
            Self::U8(x) if k.is_multiple_of(multiple) => Some(InPlace { bytes: x, k, pieces: None }),
            Self::Rows(x) if in_pieces => x.in_pieces(places)?.map(|bytes| {
                let pieces = Pieces { rows: &places.rows, blocks: &places.blocks };
                assert!(pieces.reach() <= bytes.len(), "pieces inside of the bytes");
                InPlace { bytes, k, pieces: Some(pieces) }
            }),
            _ => None,
        })
    }

    /// Elements.
    pub fn len(&self) -> usize {
        match self {
            Self::U8(x) => x.len(),
            Self::I8(x) => x.len(),
            Self::F32(x, _) => x.len(),
            Self::Rows(x) => x.elements(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the kernels' operand falls short of the activation by.
    pub fn shift(&self) -> i32 {
        match self {
            Self::U8(_) | Self::F32(..) => SHIFT,
            Self::I8(_) => 0,
            Self::Rows(x) => x.shift(),
        }
    }
}

/// Memory for packed rows and their sums, kept from call to call.
pub(super) struct Memory<'a> {
    pub data: &'a mut Aligned<i8>,
    pub sums: &'a mut Vec<i32>,
    pub places: &'a mut Places,
}

/// uint8 activations that are multiplied where they are.
#[derive(Debug, Clone, Copy)]
pub(super) struct InPlace<'a> {
    pub bytes: &'a [u8],
    /// Of a row, which the next one follows unless they are in pieces.
    pub k: usize,
    pub pieces: Option<Pieces<'a>>,
}

impl<'a> InPlace<'a> {
    /// As rows that are multiplied, which have these sums unless nobody asks for them.
    pub fn packed(self, sums: &'a [i32]) -> Packed<'a> {
        // SAFETY: the layout is the same.
        let data = unsafe { &*(std::ptr::from_ref(self.bytes) as *const [i8]) };
        Packed { data, sums, stride: self.k, k: self.k, width: 1, pieces: self.pieces }
    }
}

/// Rows of activations as they are multiplied.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packed<'a> {
    /// (m, padded k), rows `stride` bytes apart, or in pieces.
    pub data: &'a [i8],
    /// Σₖ of each packed row.
    pub sums: &'a [i32],
    /// Distance of rows.
    pub stride: usize,
    /// Activations of a row, with what it is filled up with.
    pub k: usize,
    /// Bytes of an activation.
    pub width: usize,
    /// Where rows lie, if not one behind the other.
    pub pieces: Option<Pieces<'a>>,
}

impl<'a> Packed<'a> {
    /// What some rows have for an extent that begins at `fractal`.
    pub fn rows(&self, rows: Range<usize>, fractal: usize, extent: Extent) -> Rows<'a> {
        if let Some(Pieces { rows: places, blocks }) = self.pieces {
            let pieces = Pieces { rows: &places[rows], blocks: &blocks[fractal * FRACTAL_K / PIECE_K..] };
            // SAFETY: `Activation::in_place` has seen that all pieces are inside.
            return unsafe { Rows::in_pieces(self.data, pieces) };
        }
        let data = &self.data[rows.start * self.stride + fractal * FRACTAL_K * self.width..];
        let k = extent.k().min(self.k - fractal * FRACTAL_K);
        Rows::new(data, self.stride, rows.len(), k * self.width)
    }
}

/// Activations of a unit of the work.
const UNIT: usize = 1 << 14;

/// Bytes from row to row, for rows of `len`: an odd number of cache lines, so that neighbouring rows lie in different
/// sets of the first cache whatever their length.
fn apart(len: usize) -> usize {
    (len.div_ceil(LINE) | 1) * LINE
}

/// What activations become.
#[derive(Debug, Clone, Copy)]
pub(super) enum Form {
    /// uint8 as they are, in rows that are filled up with 0, or where they are in the first place if their length is such a
    /// multiple; `in_pieces`: in pieces as well; `sums`: and the sums of rows, which else nobody asks for.
    Bytes { multiple: usize, in_pieces: bool, sums: bool },
    /// int8, in rows that are filled up with `pad`, and then what a kernel makes of them, of `width` bytes each.
    Packed { pad: i8, width: usize },
}

/// Packing of (m, k) activations, shared by the threads that come.
pub(super) struct Packing<'a> {
    x: Activation<'a>,
    k: usize,
    /// Values of floats, whose range must be known first.
    ranging: Barrier,
    range: Mutex<quantize::Range>,
    packing: Barrier,
    /// Rows of a unit.
    rows: usize,
    form: Form,
    /// Rows that nothing needs to be done with.
    in_place: Option<InPlace<'a>>,
    data: *mut i8,
    sums: *mut i32,
    m: usize,
    stride: usize,
    memory: PhantomData<Memory<'a>>,
}

// SAFETY: rows and their sums are written by the one thread that has their unit of `packing`, and read by no one before
// all of it is done.
unsafe impl Sync for Packing<'_> {}

impl<'a> Packing<'a> {
    /// # Panics
    /// If there are not m · k activations.
    pub fn new(memory: Memory<'a>, x: Activation<'a>, (m, k): (usize, usize), form: Form) -> Result<Self, Error> {
        assert_eq!(m.checked_mul(k), Some(x.len()));
        let in_place = match form {
            Form::Bytes { multiple, in_pieces, .. } => x.in_place((k, multiple), in_pieces, memory.places)?,
            _ => None,
        };
        let stride = apart(k.next_multiple_of(FRACTAL_K).saturating_mul(form.width()));
        if in_place.is_none() {
            // Padding may make more of them than can be counted, which is more than there can be memory for.
            memory.data.reset(m.saturating_mul(stride), "packed activations")?;
        }
        resize(memory.sums, m, "sums of rows")?;
        let rows = (UNIT / k).clamp(1, m.max(1));
        let untouched = in_place.is_some() && !matches!(form, Form::Bytes { sums: true, .. });
        let units = if untouched { 0 } else { m.div_ceil(rows) };
        let values = if let Activation::F32(values, _) = x { values.len() } else { 0 };
        Ok(Self {
            x,
            k,
            ranging: Barrier::new(values.div_ceil(UNIT)),
            range: Mutex::new(quantize::Range::EMPTY),
            packing: Barrier::new(units),
            rows,
            form,
            in_place,
            data: memory.data.as_mut_ptr(),
            sums: memory.sums.as_mut_ptr(),
            m,
            stride,
            memory: PhantomData,
        })
    }

    /// Does a thread's share, for a kernel that wants this form; `row` is memory of its own. Gives all rows, and what they were
    /// quantised by if they were floats.
    pub fn share(&self, kernel: &dyn RowKernel, row: &mut Vec<u8>) -> Result<(Packed<'_>, Option<Quantizer>), Error> {
        let quantizer = match self.x {
            Activation::F32(values, _) => {
                self.ranging.share(|unit| {
                    let found = kernel.range(&values[unit * UNIT..values.len().min((unit + 1) * UNIT)]);
                    let mut range = self.range.lock().unwrap_or_else(PoisonError::into_inner);
                    *range = range.with(found);
                });
                // A thread that has no memory leaves its share to the others.
                resize(row, self.k, "a quantised row")?;
                Some(Quantizer::from(*self.range.lock().unwrap_or_else(PoisonError::into_inner)))
            }
            _ => None,
        };
        self.packing.share(|unit| {
            let rows = unit * self.rows..self.m.min((unit + 1) * self.rows);
            if let Some(in_place) = self.in_place {
                return self.add_up(kernel, in_place, rows);
            }
            // SAFETY: these rows, of m, are in this unit alone; the memory has m rows and m sums, and outlives this.
            let (to, sums) = unsafe {
                let to = self.data.add(rows.start * self.stride);
                let sums = self.sums.add(rows.start);
                (
                    std::slice::from_raw_parts_mut(to, rows.len() * self.stride),
                    std::slice::from_raw_parts_mut(sums, rows.len()),
                )
            };
            match self.form {
                Form::Bytes { sums: false, .. } => self.copy(kernel, rows, quantizer, to),
                Form::Bytes { sums: true, .. } => {
                    self.copy(kernel, rows, quantizer, to);
                    kernel.sums(Rows::new(to, self.stride, sums.len(), self.k), self.k, sums);
                }
                Form::Packed { pad, width } => {
                    for ((i, to), sum) in rows.zip(to.chunks_exact_mut(self.stride)).zip(sums) {
                        // What is behind whole fractals is never read; to clear it would cost as much as packing the row.
                        let len = self.k.next_multiple_of(FRACTAL_K);
                        let packed = &mut to[..len * width];
                        let (body, behind) = packed[len * (width - 1)..].split_at_mut(self.k);
                        *sum = self.row(kernel, i, quantizer, row, body);
                        behind.fill(pad);
                        kernel.finish(packed);
                    }
                }
            }
        });
        // SAFETY: all units are done, and nothing writes any more. `new` has made the memory that long.
        let sums = unsafe { std::slice::from_raw_parts(self.sums, self.m) };
        let width = self.form.width();
        let packed = match self.in_place {
            Some(in_place) => in_place.packed(sums),
            None => {
                // SAFETY: as above.
                let data = unsafe { std::slice::from_raw_parts(self.data, self.m * self.stride) };
                Packed { data, sums, stride: self.stride, k: self.k.next_multiple_of(FRACTAL_K), width, pieces: None }
            }
        };
        Ok((packed, quantizer))
    }

    /// Makes the sums of rows of a unit that stay where they are.
    fn add_up(&self, kernel: &dyn RowKernel, in_place: InPlace<'_>, rows: Range<usize>) {
        // SAFETY: these rows, of m, are in this unit alone; the memory has m sums, and outlives this.
        let sums = unsafe { std::slice::from_raw_parts_mut(self.sums.add(rows.start), rows.len()) };
        let extent = Extent::new(1, self.k.div_ceil(FRACTAL_K));
        kernel.sums(in_place.packed(&[]).rows(rows, 0, extent), self.k, sums);
    }

    /// Writes rows of uint8 activations as they are, those of floats quantised, and fills them up.
    fn copy(&self, kernel: &dyn RowKernel, rows: Range<usize>, quantizer: Option<Quantizer>, to: &mut [i8]) {
        // SAFETY: the layout is the same.
        let to = unsafe { &mut *(std::ptr::from_mut(to) as *mut [u8]) };
        if let Activation::Rows(x) = self.x {
            x.copy(rows.clone(), to, self.stride);
        }
        for (i, row) in rows.zip(to.chunks_exact_mut(self.stride)) {
            let (body, behind) = row[..self.k.next_multiple_of(FRACTAL_K)].split_at_mut(self.k);
            behind.fill(0);
            let elements = i * self.k..(i + 1) * self.k;
            match (self.x, quantizer) {
                (Activation::U8(x), _) => body.copy_from_slice(&x[elements]),
                (Activation::F32(x, heads), Some(quantizer)) => {
                    quantize(kernel, quantizer, (x, heads), elements, body)
                }
                _ => {}
            }
        }
    }

    /// Packs row `i`, by way of `quantized` if it is one of floats; its sum.
    fn row(
        &self,
        kernel: &dyn RowKernel,
        i: usize,
        quantizer: Option<Quantizer>,
        quantized: &mut [u8],
        to: &mut [i8],
    ) -> i32 {
        let elements = i * self.k..(i + 1) * self.k;
        match (self.x, quantizer) {
            (Activation::U8(x), _) => kernel.pack(ActivationRow::U8(&x[elements]), to),
            (Activation::I8(x), _) => kernel.pack(ActivationRow::I8(&x[elements]), to),
            (Activation::Rows(x), _) => x.pack(kernel, i, to),
            (Activation::F32(x, heads), quantizer) => {
                let quantized = &mut quantized[..self.k];
                quantize(kernel, quantizer.expect("floats have one"), (x, heads), elements, quantized);
                kernel.pack(ActivationRow::U8(quantized), to)
            }
        }
    }
}

/// Quantises some elements of floats, those of rows whose heads lie apart one head after the other.
fn quantize(
    kernel: &dyn RowKernel,
    quantizer: Quantizer,
    (x, heads): (&[f32], Option<SplitHeads>),
    elements: Range<usize>,
    to: &mut [u8],
) {
    let Some(split) = heads else {
        kernel.quantize(quantizer, &x[elements], uninit(to));
        return;
    };
    let mut rest = uninit(to);
    for piece in pieces(elements, split.columns) {
        let (to, behind) = rest.split_at_mut(piece.len());
        kernel.quantize(quantizer, &x[split.source(piece.start)..][..piece.len()], to);
        rest = behind;
    }
    debug_assert!(rest.is_empty());
}

/// Elements that are written anew.
pub(super) fn uninit(elements: &mut [u8]) -> &mut [MaybeUninit<u8>] {
    // SAFETY: the layout is the same; [`RowKernel::quantize`], which alone is given them, writes bytes to all of them.
    unsafe { &mut *(std::ptr::from_mut(elements) as *mut [MaybeUninit<u8>]) }
}

impl Form {
    /// Bytes of an activation as it is multiplied.
    fn width(self) -> usize {
        match self {
            Self::Bytes { .. } => 1,
            Self::Packed { width, .. } => width,
        }
    }
}

impl SplitHeads {
    /// Elements of an element of the batch, unless they are too many.
    pub(super) fn elements(&self) -> Option<usize> {
        self.heads.checked_mul(self.rows)?.checked_mul(self.columns)
    }

    /// Where element `at` of (batch, rows, heads, columns) is.
    fn source(&self, at: usize) -> usize {
        let Self { heads, rows, columns } = *self;
        let (line, column) = (at / columns, at % columns);
        let (batch, row, head) = (line / heads / rows, line / heads % rows, line % heads);
        ((batch * heads + head) * rows + row) * columns + column
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::portable::Portable;
    use crate::parallel::{Parallel, Scoped};

    const PAD: i8 = -128;

    /// Packed by several threads: rows without their padding, sums, and the quantisation.
    fn packed(x: Activation<'_>, (m, k): (usize, usize), threads: usize) -> (Vec<i8>, Vec<i32>, Option<Quantizer>) {
        let (mut data, mut sums, mut places) = (Aligned::default(), Vec::new(), Places::default());
        data.reset(m * apart(k.next_multiple_of(FRACTAL_K)), "rows").unwrap();
        data.fill(77);
        let packing = Packing::new(
            Memory { data: &mut data, sums: &mut sums, places: &mut places },
            x,
            (m, k),
            Form::Packed { pad: PAD, width: 1 },
        )
        .unwrap();
        let found = Mutex::new(None);
        Scoped(threads).run(threads, &|_| {
            let (packed, quantizer) = packing.share(&Portable::<false>, &mut Vec::new()).unwrap();
            let rows = (0..m).flat_map(|i| &packed.data[i * packed.stride..][..k]).copied().collect();
            let pads = (0..m).flat_map(|i| &packed.data[i * packed.stride..][k..k.next_multiple_of(FRACTAL_K)]);
            assert!(pads.copied().all(|pad| pad == PAD));
            *found.lock().unwrap() = Some((rows, packed.sums.to_vec(), quantizer));
        });
        found.into_inner().unwrap().unwrap()
    }

    fn values(len: usize) -> Vec<f32> {
        (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 - 9e6).collect()
    }

    /// What `values` should become.
    fn quantized(values: &[f32]) -> (Vec<u8>, Quantizer) {
        let quantizer = Quantizer::from(quantize::Range::of(values));
        let mut out = vec![MaybeUninit::uninit(); values.len()];
        (quantizer.quantize(values, &mut out).to_vec(), quantizer)
    }

    #[test]
    fn floats_are_packed_as_their_quantized_bytes_are() {
        for (m, k) in [(1, 1), (3, 31), (5, 33), (7, 64), (300, 1000)] {
            let x = values(m * k);
            let (bytes, quantizer) = quantized(&x);
            for threads in [1, 2, 5] {
                let (rows, sums, found) = packed(Activation::F32(&x, None), (m, k), threads);
                assert_eq!(found, Some(quantizer));
                assert_eq!((rows, sums, None), packed(Activation::U8(&bytes), (m, k), threads), "{m} × {k}");
            }
        }
    }

    #[test]
    fn heads_are_put_side_by_side() {
        // Rows of k that are whole lines of all heads, parts of them, and neither.
        for (batch, split, k) in [
            (2, SplitHeads { heads: 3, rows: 5, columns: 8 }, 24),
            (1, SplitHeads { heads: 4, rows: 6, columns: 8 }, 16),
            (1, SplitHeads { heads: 3, rows: 4, columns: 6 }, 9),
            (1, SplitHeads { heads: 1, rows: 1, columns: 1 }, 1),
        ] {
            let SplitHeads { heads, rows, columns } = split;
            let x = values(batch * heads * rows * columns);
            let mut moved = Vec::new();
            for b in 0..batch {
                for row in 0..rows {
                    for head in 0..heads {
                        moved.extend_from_slice(&x[((b * heads + head) * rows + row) * columns..][..columns]);
                    }
                }
            }
            let shape = (x.len() / k, k);
            let expected = packed(Activation::F32(&moved, None), shape, 1);
            assert_eq!(packed(Activation::F32(&x, Some(split)), shape, 2), expected, "{split:?}");
        }
    }
}

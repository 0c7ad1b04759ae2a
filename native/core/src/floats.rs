//! A weight as a tensor of floats: decoded and dequantised in one step, so that the bytes are never in memory as a whole, or made
//! of bytes that are decoded already.

use crate::arch::ByteRows;
use crate::arch::rows::Panels;
use crate::decoder::Bound;
use crate::decompress::{Layout, VerifiedWeight, each};
use crate::dequantize::{Along, Channels};
use crate::error::{Error, with_room};
use crate::geometry::{FRACTAL, FRACTAL_K, GROUPS, PANEL};
use crate::parallel::Parallel;
use crate::shared::Shared;
use std::iter;
use std::mem::MaybeUninit;

/// Elements of a channel that follow each other below which values are written out, one for each element until they begin anew...
const SHORT: usize = 256;

/// ... if that are so many at the most, 256 KiB of them, ...
const PERIOD: usize = 1 << 16;

/// ... and the tensor has them so many times: else they are asked for channel by channel.
const TIMES: usize = 4;

/// Fractals of a panel that are dequantised together: their bytes, and the floats of a row, stay in the first cache.
const FRACTALS: usize = 16;

/// Elements that are made floats of by a thread at a time, where they are decoded already.
const PIECE: usize = 1 << 17;

impl Bound<'_, VerifiedWeight> {
    /// Writes all weights as floats. Where that fails, `out` holds anything.
    pub fn dequantize(
        &self,
        layout: Layout,
        channels: Channels<'_>,
        out: &mut [MaybeUninit<f32>],
        pool: &dyn Parallel,
    ) -> Result<(), Error> {
        channels.check()?;
        let (geometry, tiles) = (self.geometry(), self.tiles());
        let expected = geometry.n() * geometry.k();
        if out.len() != expected {
            return Err(Error::Argument { what: "the floats of a weight", expected, found: out.len() });
        }
        let (mut scales, mut zero_points) = (Vec::new(), Vec::new());
        let channels = written_out(channels, out.len(), &mut scales, &mut zero_points)?;
        let writer = Writer { weight: self, layout, channels, out: Shared::unwritten(out) };
        each(geometry, geometry.tiles(), pool, |t, workspace| {
            let shape = geometry.tile(t);
            tiles.with_symbols(t, workspace, |symbols| {
                for (p, symbols) in symbols.chunks_exact(shape.fractals * FRACTAL).enumerate() {
                    let n0 = (shape.panel + p) * PANEL;
                    for (f, part) in symbols.chunks(FRACTALS * FRACTAL).enumerate() {
                        writer.write(part, n0, (shape.fractal + f * FRACTALS) * FRACTAL_K);
                    }
                }
            })
        })
    }

    /// As [`Self::dequantize`] row by row, where all elements of the weight are decoded already.
    pub fn dequantize_decoded(
        &self,
        decoded: &[u8],
        channels: Channels<'_>,
        out: &mut [MaybeUninit<f32>],
        pool: &dyn Parallel,
    ) -> Result<(), Error> {
        channels.check()?;
        let expected = self.geometry().n() * self.geometry().k();
        for (what, found) in [("the floats of a weight", out.len()), ("the decoded weight", decoded.len())] {
            if found != expected {
                return Err(Error::Argument { what, expected, found });
            }
        }
        let (mut scales, mut zero_points) = (Vec::new(), Vec::new());
        let channels = written_out(channels, out.len(), &mut scales, &mut zero_points)?;
        let writer = Writer { weight: self, layout: Layout::Nk, channels, out: Shared::unwritten(out) };
        let run = |piece: usize| {
            let at = piece * PIECE;
            writer.write_row(at, &decoded[at..decoded.len().min(at + PIECE)]);
        };
        match decoded.len().div_ceil(PIECE) {
            1 => run(0),
            pieces => pool.run(pieces, &run),
        }
        Ok(())
    }
}

/// The same channels; written out to `scales` and `zero_points` where that pays for so many elements.
fn written_out<'a>(
    channels: Channels<'a>,
    elements: usize,
    scales: &'a mut Vec<f32>,
    zero_points: &'a mut Vec<f32>,
) -> Result<Channels<'a>, Error> {
    let Channels { inner, count, scale, zero_point } = channels;
    let period = inner.saturating_mul(count);
    if !(2..SHORT).contains(&inner) || period > PERIOD || elements / TIMES < period {
        return Ok(channels);
    }
    let write = |along: Along<'a>, out: &'a mut Vec<f32>| -> Result<Along<'a>, Error> {
        let Along::Columns(values) = along else { return Ok(along) };
        *out = with_room(period, "scales")?;
        out.extend(values.iter().flat_map(|&value| iter::repeat_n(value, inner)));
        Ok(Along::Columns(&*out))
    };
    let (scale, zero_point) = (write(scale, scales)?, write(zero_point, zero_points)?);
    Ok(Channels { inner: 1, count: period, scale, zero_point })
}

/// Puts parts of panels to their places in an output.
struct Writer<'a> {
    weight: &'a Bound<'a, VerifiedWeight>,
    layout: Layout,
    channels: Channels<'a>,
    out: Shared<'a, f32>,
}

impl Writer<'_> {
    /// Writes what is inside of the matrix of some fractals of a panel, which begin at `n0` and `k0`.
    fn write(&self, symbols: &[u8], n0: usize, k0: usize) {
        let (n, k) = (self.weight.n(), self.weight.k());
        let fractals = symbols.len() / FRACTAL;
        let (of_n, of_k) = (PANEL.min(n - n0), (fractals * FRACTAL_K).min(k.saturating_sub(k0)));
        let (flip, kernel) = (self.weight.weight_type().flip(), self.weight.kernel().tile().rows());
        let mut part = [0u8; FRACTALS * FRACTAL];
        match self.layout {
            Layout::Nk => {
                let stride = fractals * FRACTAL_K;
                // SAFETY: 16 rows of 32 bytes a fractal.
                unsafe { kernel.write_rows(symbols, ByteRows::nearby(part.as_mut_ptr(), stride, flip)) };
                for (i, row) in part.chunks_exact(stride).take(of_n).enumerate() {
                    self.write_row((n0 + i) * k + k0, &row[..of_k]);
                }
            }
            Layout::Kn => {
                let panel = Panels::new(symbols, symbols.len(), fractals * GROUPS);
                // SAFETY: 32 rows of 16 bytes a fractal.
                unsafe { kernel.write_columns(panel, ByteRows::nearby(part.as_mut_ptr(), PANEL, flip)) };
                for (l, row) in part.chunks_exact(PANEL).take(of_k).enumerate() {
                    self.write_row((k0 + l) * n + n0, &row[..of_n]);
                }
            }
        }
    }

    /// Writes the elements from `at` on, which these bytes are.
    fn write_row(&self, at: usize, weights: &[u8]) {
        let to = self.out.at(at, weights.len()).cast::<MaybeUninit<f32>>();
        // SAFETY: `at` has seen that so many are inside of the output; no other tile has them.
        let to = unsafe { std::slice::from_raw_parts_mut(to, weights.len()) };
        self.weight.kernel().dequantize(weights, self.weight.weight_type(), self.channels, at, to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::{WeightView, encode};
    use crate::parallel::Serial;
    use crate::{Kernel, Profile, Tiling, WeightType};

    #[test]
    fn the_floats_of_every_layout_axis_and_kernel() {
        let scales: Vec<f32> = (0..700).map(|i| 0.01 + i as f32 * 0.003).collect();
        let zeros: Vec<f32> = (0..700).map(|i| (i % 7) as f32 - 3.0).collect();
        for weight_type in [WeightType::I8, WeightType::U8] {
            for (n, k) in [(3, 5), (16, 32), (33, 700), (40, 96)] {
                let bytes: Vec<u8> = (0..n * k).map(|i| (i * i % 23 + i % 11) as u8 ^ 0x80).collect();
                let view = WeightView::new(&bytes, (n, k), (k, 1), weight_type).unwrap();
                let packed = encode(&view, Profile::Balanced, Tiling::default()).unwrap();
                for kernel in Kernel::available() {
                    let weight =
                        VerifiedWeight::new(&packed.x2, &packed.compress_index, &packed.compress_info, kernel, 1)
                            .unwrap();
                    let bound = weight.bind(&packed.x2).unwrap();
                    for (layout, order) in [(Layout::Nk, 0), (Layout::Kn, 1)] {
                        let byte = |i: usize| if order == 0 { bytes[i] } else { bytes[i % n * k + i / n] };
                        for (inner, count) in
                            [(1, k.min(n)), (k, n), (n * k, 1), (2, 3), (16, 5), (255, 257), (256, 3)]
                        {
                            let channels = Channels {
                                inner,
                                count,
                                scale: Along::Columns(&scales[..count]),
                                zero_point: if count == 3 {
                                    Along::Whole(4.0)
                                } else {
                                    Along::Columns(&zeros[..count])
                                },
                            };
                            let mut out = vec![MaybeUninit::new(f32::NAN); n * k];
                            bound.dequantize(layout, channels, &mut out, &Serial).unwrap();
                            if layout == Layout::Nk {
                                let mut again = vec![MaybeUninit::new(f32::NAN); n * k];
                                bound.dequantize_decoded(&bytes, channels, &mut again, &Serial).unwrap();
                                let bits = |floats: &[MaybeUninit<f32>]| -> Vec<u32> {
                                    // SAFETY: they were initialised above.
                                    floats.iter().map(|float| unsafe { float.assume_init() }.to_bits()).collect()
                                };
                                assert_eq!(bits(&again), bits(&out));
                            }
                            for (i, found) in out.iter().enumerate() {
                                let c = i / inner % count;
                                let w = match weight_type {
                                    WeightType::I8 => f32::from(byte(i).cast_signed()),
                                    WeightType::U8 => f32::from(byte(i)),
                                };
                                let zero = if count == 3 { 4.0 } else { zeros[c] };
                                let expected = (w - zero) * scales[c];
                                // SAFETY: it was initialised above.
                                let found = unsafe { found.assume_init() };
                                assert_eq!(found.to_bits(), expected.to_bits(), "{kernel:?} {layout:?} {n}x{k} {i}");
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn scales_that_do_not_fit_are_refused() {
        let bytes = [7u8; 64];
        let packed = encode(
            &WeightView::new(&bytes, (2, 32), (32, 1), WeightType::I8).unwrap(),
            Profile::Fast,
            Tiling::default(),
        )
        .unwrap();
        let weight =
            VerifiedWeight::new(&packed.x2, &packed.compress_index, &packed.compress_info, Kernel::best(), 1)
                .unwrap();
        let bound = weight.bind(&packed.x2).unwrap();
        let of = |inner, count, scale| Channels { inner, count, scale, zero_point: Along::Whole(0.0) };
        let mut out = vec![MaybeUninit::new(0.0); 64];
        for channels in [of(32, 2, Along::Columns(&[1.0])), of(0, 2, Along::Whole(1.0)), of(1, 0, Along::Whole(1.0))]
        {
            assert!(bound.dequantize(Layout::Nk, channels, &mut out, &Serial).is_err());
        }
        assert!(bound.dequantize(Layout::Nk, of(1, 1, Along::Whole(1.0)), &mut out[1..], &Serial).is_err());
    }
}

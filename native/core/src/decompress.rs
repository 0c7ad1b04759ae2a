//! A weight as a tensor: all of it, written straight to where it is wanted.

use crate::arch::rows::Panels;
use crate::arch::{ByteRows, Stores, Workspace};
use crate::codec::WeightType;
use crate::container::CompressedWeight;
use crate::decoder::{Bound, Decoder, Tiles};
use crate::dispatch::Kernel;
use crate::error::{Error, with_room};
use crate::geometry::{FRACTAL, FRACTAL_K, GROUP, GROUP_K, Geometry, PANEL, TileShape};
use crate::parallel::{Parallel, Scoped, Serial};
use crate::shared::Shared;
use std::mem::MaybeUninit;
use std::sync::{Mutex, PoisonError};

/// Weights that are worth a thread: what one decodes while another wakes up.
const WEIGHTS_PER_TASK: usize = 1 << 17;

/// Tasks for each thread, so that one that begins late does not hold up the others.
const TASKS_PER_THREAD: usize = 4;

/// In which order the elements of a weight (n, k) are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// As a matrix (n, k), row by row.
    Nk,
    /// As a matrix (k, n), row by row.
    Kn,
}

/// Bytes of an output that stays in the second cache: there, fetching its lines costs more than it brings.
const NEAR: usize = 1 << 20;

impl Layout {
    /// How an output of so many bytes is best written, in memory that was used before: measured, see
    /// docs/experiments/2026-11-28-whole-model.md. A row's lines come in the time that decoding takes; columns are written all at
    /// once, behind it.
    fn stores(self, bytes: usize) -> Stores {
        let far = match self {
            Self::Nk => 48 * NEAR,
            Self::Kn => 2 * NEAR,
        };
        match bytes {
            _ if bytes <= NEAR => Stores::Usual,
            _ if bytes <= far => Stores::Fetched,
            _ => Stores::Streamed,
        }
    }
}

/// A weight whose every checksum and code word was checked. The compressed bytes stay with the caller.
#[derive(Debug)]
pub struct VerifiedWeight {
    decoder: Decoder,
}

impl VerifiedWeight {
    /// Checks all three tensors, on `threads` threads at most.
    pub fn new(x2: &[u8], index: &[u8], info: &[i64], kernel: Kernel, threads: usize) -> Result<Self, Error> {
        let mut decoder = Decoder::new(CompressedWeight::parse(x2, index, info)?, kernel);
        let pool: &dyn Parallel = if threads > 1 { &Scoped(threads) } else { &Serial };
        let (tiles, of_a_tile) = (decoder.geometry().tiles(), decoder.weight().counts_of_a_tile());
        let len = tiles.saturating_mul(of_a_tile);
        let mut counts = with_room(len, "counts of tiles")?;
        counts.resize(len, 0);
        let places = Mutex::new(&mut counts);
        each(decoder.geometry(), tiles, pool, |t, workspace| {
            let tiles = decoder.tiles(x2);
            let found = tiles.verify(t)?;
            tiles.with_symbols(t, workspace, |_| ())?;
            let mut places = places.lock().unwrap_or_else(PoisonError::into_inner);
            places[t * of_a_tile..][..found.len()].copy_from_slice(&found);
            Ok(())
        })?;
        decoder.remember_counts(counts);
        Ok(Self { decoder })
    }

    /// Columns of the matrix (n, k).
    pub fn k(&self) -> usize {
        self.geometry().k()
    }
    /// Rows of the matrix (n, k).
    pub fn n(&self) -> usize {
        self.geometry().n()
    }
    /// Type of the weights.
    pub fn weight_type(&self) -> WeightType {
        self.decoder.weight().weight_type()
    }
    pub(crate) fn geometry(&self) -> &Geometry {
        self.decoder.geometry()
    }
    /// What decodes it.
    pub fn kernel(&self) -> Kernel {
        self.decoder.kernel()
    }

    /// Together with the bytes that it was made from. What is done with it is memory-safe whatever they are by now, and gives
    /// an error where they do not decode.
    pub fn bind<'a>(&'a self, x2: &'a [u8]) -> Result<Bound<'a, Self>, Error> {
        self.decoder.tiles(x2).check_len()?;
        Ok(Bound { weight: self, x2 })
    }
}

impl Bound<'_, VerifiedWeight> {
    pub(crate) fn tiles(&self) -> Tiles<'_> {
        self.weight.decoder.tiles(self.x2)
    }

    /// Writes all weights, best to memory that was written before. Where that fails, `out` holds anything.
    pub fn decompress(&self, layout: Layout, out: &mut [MaybeUninit<u8>], pool: &dyn Parallel) -> Result<(), Error> {
        let writer = Writer::new(&self.weight.decoder, layout, layout.stores(out.len()), out)?;
        decompress(&writer, self.x2, pool, |_, _| Ok(()))
    }

    /// All weights as a matrix (n, k), row by row.
    pub fn decompressed(&self, pool: &dyn Parallel) -> Result<Vec<u8>, Error> {
        in_memory(self.geometry(), |out| self.decompress(Layout::Nk, out, pool))
    }
}

/// The weight (n, k), row by row; checks every checksum and every code word.
pub fn unpack(weight: CompressedWeight, x2: &[u8], kernel: Kernel, pool: &dyn Parallel) -> Result<Vec<u8>, Error> {
    let geometry = *weight.geometry();
    in_memory(&geometry, |out| unpack_into(Layout::Nk, weight, x2, kernel, out, pool))
}

/// As [`unpack`], in either order, and into memory of the caller's, best such as was not written before. Where that fails, `out`
/// holds anything.
pub fn unpack_into(
    layout: Layout,
    weight: CompressedWeight,
    x2: &[u8],
    kernel: Kernel,
    out: &mut [MaybeUninit<u8>],
    pool: &dyn Parallel,
) -> Result<(), Error> {
    let decoder = Decoder::new(weight, kernel);
    let check = |tiles: &Tiles<'_>, t| tiles.verify(t).map(drop);
    // Pages that the system has just cleared are in the caches.
    decompress(&Writer::new(&decoder, layout, Stores::Usual, out)?, x2, pool, check)
}

/// A weight in memory of its own.
fn in_memory(
    geometry: &Geometry,
    write: impl FnOnce(&mut [MaybeUninit<u8>]) -> Result<(), Error>,
) -> Result<Vec<u8>, Error> {
    let len = geometry.n() * geometry.k();
    let mut out = with_room(len, "a decoded weight")?;
    write(&mut out.spare_capacity_mut()[..len])?;
    // SAFETY: all of them were written.
    unsafe { out.set_len(len) };
    Ok(out)
}

/// Writes all weights; `check` is asked about each tile before it is decoded.
fn decompress(
    writer: &Writer<'_>,
    x2: &[u8],
    pool: &dyn Parallel,
    check: impl Fn(&Tiles<'_>, usize) -> Result<(), Error> + Sync,
) -> Result<(), Error> {
    let (geometry, tiles) = (writer.decoder.geometry(), writer.decoder.tiles(x2));
    each(geometry, geometry.tiles(), pool, |t, workspace| {
        check(&tiles, t)?;
        let shape = geometry.tile(t);
        if let Some(rows) = writer.rows_of(&shape) {
            // SAFETY: `rows_of` has seen that the whole tile is inside of the output; no other tile has that part of it.
            if unsafe { tiles.decode_rows(t, rows, &mut workspace.scratch)? } {
                return Ok(());
            }
        }
        tiles.with_symbols(t, workspace, |symbols| writer.write(symbols, &shape))
    })
}

/// Puts panels to their places in an output.
struct Writer<'a> {
    decoder: &'a Decoder,
    layout: Layout,
    stores: Stores,
    out: Shared<'a>,
}

impl<'a> Writer<'a> {
    /// Fails unless the output has the size of the weight.
    fn new(
        decoder: &'a Decoder,
        layout: Layout,
        stores: Stores,
        out: &'a mut [MaybeUninit<u8>],
    ) -> Result<Self, Error> {
        let expected = decoder.geometry().n() * decoder.geometry().k();
        if out.len() != expected {
            return Err(Error::Argument { what: "the decoded weight", expected, found: out.len() });
        }
        Ok(Self { decoder, layout, stores, out: Shared::unwritten(out) })
    }

    /// Writes what is inside of the matrix of a tile's symbols.
    fn write(&self, symbols: &[u8], shape: &TileShape) {
        let (panel, n0, k0) = (shape.fractals * FRACTAL, shape.panel * PANEL, shape.fractal * FRACTAL_K);
        match self.layout {
            Layout::Nk => {
                for (p, symbols) in symbols.chunks_exact(panel).enumerate() {
                    self.write_nk(symbols, n0 + p * PANEL, k0);
                }
            }
            Layout::Kn => self.write_kn(symbols, panel, n0, k0),
        }
    }

    /// The rows of a tile, if all of it is inside of the matrix and rows are what is wanted.
    fn rows_of(&self, shape: &TileShape) -> Option<ByteRows> {
        let (n, k, _) = self.shape();
        let (n0, k0) = (shape.panel * PANEL, shape.fractal * FRACTAL_K);
        let (rows, columns) = (shape.panels * PANEL, shape.fractals * FRACTAL_K);
        let inside = self.layout == Layout::Nk && n0 + rows <= n && k0 + columns <= k;
        inside.then(|| self.rows(self.out.at(n0 * k + k0, (rows - 1) * k + columns), k))
    }

    /// Rows of the output.
    fn rows(&self, at: *mut u8, stride: usize) -> ByteRows {
        let flip = self.decoder.weight().weight_type().flip();
        ByteRows { at, stride, flip, stores: self.stores }
    }

    /// n, k, and what symbols differ from weights by.
    fn shape(&self) -> (usize, usize, u8) {
        let geometry = self.decoder.geometry();
        (geometry.n(), geometry.k(), self.decoder.weight().weight_type().flip())
    }

    /// Writes a panel as rows of the matrix (n, k).
    fn write_nk(&self, symbols: &[u8], n0: usize, k0: usize) {
        let ((n, k, flip), out, kernel) = (self.shape(), &self.out, self.decoder.kernel().tile().rows());
        let (rows, columns) = (PANEL.min(n - n0), (symbols.len() / PANEL).min(k - k0));
        let whole = if rows == PANEL { columns / FRACTAL_K } else { 0 };
        let (inside, edge) = symbols.split_at(whole * FRACTAL);
        if whole > 0 {
            let first = out.at(n0 * k + k0, (PANEL - 1) * k + whole * FRACTAL_K);
            // SAFETY: `at` has seen that 16 rows of so many bytes, k apart, are inside of the output; no other tile has them.
            unsafe { kernel.write_rows(inside, self.rows(first, k)) };
        }
        let mut part = [0u8; FRACTAL];
        for (f, fractal) in edge.chunks_exact(FRACTAL).enumerate() {
            let column = (whole + f) * FRACTAL_K;
            let len = FRACTAL_K.min(columns.saturating_sub(column));
            // SAFETY: 16 rows of 32 bytes, 32 apart.
            unsafe { kernel.write_rows(fractal, ByteRows::nearby(part.as_mut_ptr(), FRACTAL_K, flip)) };
            for (i, row) in part.chunks_exact(FRACTAL_K).take(rows).enumerate() {
                let to = out.at((n0 + i) * k + k0 + column, len);
                // SAFETY: `at` has seen that `len` bytes are inside of the output; no other tile has them.
                unsafe { to.copy_from_nonoverlapping(row.as_ptr(), len) };
            }
        }
    }

    /// Writes a tile, whose panels have so many symbols, as columns of the matrix (k, n).
    fn write_kn(&self, symbols: &[u8], panel: usize, n0: usize, k0: usize) {
        let ((n, k, flip), out, kernel) = (self.shape(), &self.out, self.decoder.kernel().tile().rows());
        let (columns, rows) = ((symbols.len() / panel * PANEL).min(n - n0), (panel / PANEL).min(k - k0));
        let (panels, groups) = (columns / PANEL, rows / GROUP_K);
        if panels > 0 && groups > 0 {
            let inside = Panels::new(&symbols[..panels * panel], panel, groups);
            let first = out.at(k0 * n + n0, (groups * GROUP_K - 1) * n + panels * PANEL);
            // SAFETY: `at` has seen that so many rows of so many bytes, n apart, are inside of the output; no other tile has them.
            unsafe { kernel.write_columns(inside, self.rows(first, n)) };
        }
        let mut part = [0u8; GROUP];
        for (p, panel) in symbols.chunks_exact(panel).enumerate() {
            let columns = PANEL.min(columns.saturating_sub(p * PANEL));
            let first = if columns == PANEL { groups } else { 0 };
            for (g, group) in panel.chunks_exact(GROUP).enumerate().take(rows.div_ceil(GROUP_K)).skip(first) {
                // SAFETY: 4 rows of 16 bytes, 16 apart.
                unsafe {
                    kernel
                        .write_columns(Panels::new(group, GROUP, 1), ByteRows::nearby(part.as_mut_ptr(), PANEL, flip))
                };
                for (l, from) in part.chunks_exact(PANEL).enumerate().take(rows - g * GROUP_K) {
                    let to = out.at((k0 + g * GROUP_K + l) * n + n0 + p * PANEL, columns);
                    // SAFETY: `at` has seen that so many bytes are inside of the output; no other tile has them.
                    unsafe { to.copy_from_nonoverlapping(from.as_ptr(), columns) };
                }
            }
        }
    }
}

/// Calls `task` for all of `count` tiles, or some of them as long as there is no error, with the workspace of the thread, and gives
/// the first error in their order of those that were met.
pub(crate) fn each(
    geometry: &Geometry,
    count: usize,
    pool: &dyn Parallel,
    task: impl Fn(usize, &mut Workspace) -> Result<(), Error> + Sync,
) -> Result<(), Error> {
    let tiling = geometry.tiling();
    let weights = count.saturating_mul(tiling.k * tiling.n * FRACTAL);
    let tasks = (pool.threads() * TASKS_PER_THREAD).min(weights / WEIGHTS_PER_TASK).clamp(1, count.max(1));
    let failure: Mutex<Option<(usize, Error)>> = Mutex::new(None);
    pool.run(tasks, &|i| {
        Workspace::with(|workspace| {
            for t in count * i / tasks..count * (i + 1) / tasks {
                let Err(error) = task(t, workspace) else { continue };
                let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
                if failure.as_ref().is_none_or(|(first, _)| t < *first) {
                    *failure = Some((t, error));
                }
                return;
            }
        });
    });
    failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), |(_, error)| Err(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Profile, WeightType};
    use crate::container::{WeightView, encode};
    use crate::geometry::Tiling;
    use mcd_testkit::Rng;
    use mcd_testkit::content::Content;

    /// Space in front of an output and behind it that nothing may be written to.
    const MARGIN: usize = 256;

    /// All weights, written so many bytes behind the begin of a cache line.
    fn written(decoder: &Decoder, x2: &[u8], layout: Layout, stores: Stores, offset: usize) -> Vec<u8> {
        let len = decoder.geometry().n() * decoder.geometry().k();
        let mut memory = vec![MaybeUninit::new(0xa5u8); len + 2 * MARGIN];
        let begin = memory.as_ptr().addr().next_multiple_of(64) - memory.as_ptr().addr() + 64 + offset;
        let writer = Writer::new(decoder, layout, stores, &mut memory[begin..][..len]).unwrap();
        decompress(&writer, x2, &Serial, |_, _| Ok(())).unwrap();
        // SAFETY: all were initialised above.
        let mut bytes: Vec<u8> = memory.into_iter().map(|byte| unsafe { byte.assume_init() }).collect();
        let around = bytes.split_off(begin + len);
        assert!(around.into_iter().chain(bytes.drain(..begin)).all(|byte| byte == 0xa5), "{layout:?} {stores:?}");
        bytes
    }

    /// Rows that begin on cache lines and such as do not; whole lines, halves of them, and parts.
    #[test]
    fn every_way_of_storing_gives_the_same() {
        for (n, k) in [(64, 64), (128, 256), (192, 320), (256, 96), (320, 1000), (130, 260), (72, 40)] {
            let w = Content::Mixed.weight(n, k, &mut Rng::new((n * k) as u64));
            let transposed: Vec<u8> = (0..k * n).map(|at| w[at % n * k + at / n]).collect();
            for (weight_type, tiling) in
                [(WeightType::I8, Tiling::default()), (WeightType::U8, Tiling { k: 3, n: 5 })]
            {
                let view = WeightView::new(&w, (n, k), (k, 1), weight_type).unwrap();
                let encoded = encode(&view, Profile::Balanced, tiling).unwrap();
                let (x2, index, info) = (&encoded.x2, &encoded.compress_index, &encoded.compress_info);
                for kernel in Kernel::available() {
                    let decoder = Decoder::new(CompressedWeight::parse(x2, index, info).unwrap(), kernel);
                    for stores in [Stores::Usual, Stores::Fetched, Stores::Streamed] {
                        for offset in [0, 1, 32] {
                            let case = format!("{kernel:?} {n} {k} {stores:?} {offset}");
                            assert!(written(&decoder, x2, Layout::Nk, stores, offset) == w, "{case}");
                            assert!(written(&decoder, x2, Layout::Kn, stores, offset) == transposed, "{case}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn large_outputs_pass_the_caches_by() {
        assert_eq!(
            [1, NEAR, NEAR + 1].map(|bytes| Layout::Nk.stores(bytes)),
            [Stores::Usual, Stores::Usual, Stores::Fetched]
        );
        assert_eq!(
            [48 * NEAR, 48 * NEAR + 1].map(|bytes| Layout::Nk.stores(bytes)),
            [Stores::Fetched, Stores::Streamed]
        );
        assert_eq!(
            [2 * NEAR, 2 * NEAR + 1].map(|bytes| Layout::Kn.stores(bytes)),
            [Stores::Fetched, Stores::Streamed]
        );
    }
}

//! A weight as a tensor: all of it, written straight to where it is wanted.

use crate::aligned::Aligned;
use crate::arch::TileCode;
use crate::codec::WeightType;
use crate::container::{CompressedWeight, Tile};
use crate::dispatch::Kernel;
use crate::error::{Error, with_room};
use crate::geometry::{FRACTAL, FRACTAL_K, GROUP, Geometry, PANEL, TileShape};
use crate::parallel::{Parallel, Scoped, Serial};
use crate::unpack::{decode_tile, refusal};
use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::sync::{Mutex, PoisonError};

/// Weights that are worth a thread: what one decodes while another wakes up.
const WEIGHTS_PER_TASK: usize = 1 << 17;

/// Tasks for each thread, so that one that begins late does not hold up the others.
const TASKS_PER_THREAD: usize = 4;

thread_local! {
    /// The symbols of a tile.
    static SYMBOLS: RefCell<Aligned<u8>> = const { RefCell::new(Aligned::new()) };
}

/// In which order the elements of a weight (n, k) are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// As a matrix (n, k), row by row.
    Nk,
    /// As a matrix (k, n), row by row.
    Kn,
}

/// A weight whose every checksum and code word was checked. The compressed bytes stay with the caller.
#[derive(Debug)]
pub struct VerifiedWeight {
    weight: CompressedWeight,
    code: Option<TileCode>,
    kernel: Kernel,
}

impl VerifiedWeight {
    /// Checks all three tensors, on `threads` threads at most.
    pub fn new(x2: &[u8], index: &[u8], info: &[i64], kernel: Kernel, threads: usize) -> Result<Self, Error> {
        let weight = CompressedWeight::parse(x2, index, info)?;
        let code = weight.code().cloned().map(TileCode::from);
        let mut verified = Self { weight, code, kernel };
        let pool: &dyn Parallel = if threads > 1 { &Scoped(threads) } else { &Serial };
        let (tiles, of_a_tile) = (verified.geometry().tiles(), verified.weight.counts_of_a_tile());
        let mut counts = with_room(tiles * of_a_tile, "counts of tiles")?;
        counts.resize(tiles * of_a_tile, 0);
        let places = Mutex::new(&mut counts);
        verified.each(tiles, pool, |t| {
            let found = verified.weight.verify_tile(x2, t)?;
            verified.with_symbols(x2, t, |_| ())?;
            let mut places = places.lock().unwrap_or_else(PoisonError::into_inner);
            places[t * of_a_tile..][..found.len()].copy_from_slice(&found);
            Ok(())
        })?;
        if verified.code.is_some() {
            verified.weight.remember_counts(counts);
        }
        Ok(verified)
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
        self.weight.weight_type()
    }

    pub(crate) fn geometry(&self) -> &Geometry {
        self.weight.geometry()
    }

    /// Writes all weights. `x2` must be the bytes this was made from; the call is memory-safe whatever they are, and wrong ones
    /// give an error where they do not decode: then `out` holds anything.
    pub fn decompress(
        &self,
        x2: &[u8],
        layout: Layout,
        out: &mut [MaybeUninit<u8>],
        pool: &dyn Parallel,
    ) -> Result<(), Error> {
        let (n, k) = (self.n(), self.k());
        if out.len() != n * k {
            return Err(Error::Argument { what: "the decoded weight", expected: n * k, found: out.len() });
        }
        let out = Shared { data: out.as_mut_ptr().cast(), len: out.len() };
        self.each(self.geometry().tiles(), pool, |t| {
            let shape = self.geometry().tile(t);
            self.with_symbols(x2, t, |symbols| {
                for (p, panel) in symbols.chunks_exact(shape.fractals * FRACTAL).enumerate() {
                    let panel =
                        Panel { symbols: panel, n0: (shape.panel + p) * PANEL, k0: shape.fractal * FRACTAL_K };
                    match layout {
                        Layout::Nk => self.write_nk(&panel, &out),
                        Layout::Kn => self.write_kn(&panel, &out),
                    }
                }
            })
        })
    }

    /// All weights as a matrix (n, k), row by row.
    pub fn decompressed(&self, x2: &[u8]) -> Result<Vec<u8>, Error> {
        let len = self.n() * self.k();
        let mut out = with_room(len, "a decoded weight")?;
        self.decompress(x2, Layout::Nk, &mut out.spare_capacity_mut()[..len], &Serial)?;
        // SAFETY: all of them were written.
        unsafe { out.set_len(len) };
        Ok(out)
    }

    /// Writes a panel as rows of the matrix (n, k).
    fn write_nk(&self, panel: &Panel<'_>, out: &Shared) {
        let &Panel { symbols, n0, k0 } = panel;
        let (n, k, flip) = (self.n(), self.k(), self.weight_type().flip());
        let (rows, columns) = (PANEL.min(n - n0), (symbols.len() / PANEL).min(k - k0));
        let whole = if rows == PANEL { columns / FRACTAL_K } else { 0 };
        let (inside, edge) = symbols.split_at(whole * FRACTAL);
        if whole > 0 {
            let first = out.at(n0 * k + k0, (PANEL - 1) * k + whole * FRACTAL_K);
            // SAFETY: `at` has seen that 16 rows of so many bytes, k apart, are inside of the output; no other tile has them.
            unsafe { self.kernel.tile().write_rows(inside, flip, first, k) };
        }
        let mut part = [0u8; FRACTAL];
        for (f, fractal) in edge.chunks_exact(FRACTAL).enumerate() {
            let column = (whole + f) * FRACTAL_K;
            let len = FRACTAL_K.min(columns.saturating_sub(column));
            // SAFETY: 16 rows of 32 bytes, 32 apart.
            unsafe { self.kernel.tile().write_rows(fractal, flip, part.as_mut_ptr(), FRACTAL_K) };
            for (i, row) in part.chunks_exact(FRACTAL_K).take(rows).enumerate() {
                let to = out.at((n0 + i) * k + k0 + column, len);
                // SAFETY: `at` has seen that `len` bytes are inside of the output; no other tile has them.
                unsafe { to.copy_from_nonoverlapping(row.as_ptr(), len) };
            }
        }
    }

    /// Writes a panel as columns of the matrix (k, n).
    fn write_kn(&self, panel: &Panel<'_>, out: &Shared) {
        let &Panel { symbols, n0, k0 } = panel;
        let (n, k, flip) = (self.n(), self.k(), self.weight_type().flip());
        let columns = PANEL.min(n - n0);
        for (g, group) in symbols.chunks_exact(GROUP).enumerate() {
            let mut rows = [[0u8; PANEL]; 4];
            for (i, quad) in group.chunks_exact(4).enumerate() {
                for (row, symbol) in rows.iter_mut().zip(quad) {
                    row[i] = symbol ^ flip;
                }
            }
            for (j, row) in rows.iter().enumerate().take(k.saturating_sub(k0 + 4 * g)) {
                let to = out.at((k0 + 4 * g + j) * n + n0, columns);
                // SAFETY: `at` has seen that so many bytes are inside of the output; no other tile has them.
                unsafe { to.copy_from_nonoverlapping(row.as_ptr(), columns) };
            }
        }
    }

    /// Calls `task` for all of `count` tiles, or some of them as long as there is no error, and gives the first error in their
    /// order of those that were met.
    pub(crate) fn each(
        &self,
        count: usize,
        pool: &dyn Parallel,
        task: impl Fn(usize) -> Result<(), Error> + Sync,
    ) -> Result<(), Error> {
        let tiling = self.geometry().tiling();
        let weights = count.saturating_mul(tiling.k * tiling.n * FRACTAL);
        let tasks = (pool.threads() * TASKS_PER_THREAD).min(weights / WEIGHTS_PER_TASK).clamp(1, count.max(1));
        let failure: Mutex<Option<(usize, Error)>> = Mutex::new(None);
        pool.run(tasks, &|i| {
            for t in count * i / tasks..count * (i + 1) / tasks {
                let Err(error) = task(t) else { continue };
                let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
                if failure.as_ref().is_none_or(|(first, _)| t < *first) {
                    *failure = Some((t, error));
                }
                return;
            }
        });
        failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), |(_, error)| Err(error))
    }

    /// Calls `use_them` with the symbols of tile `t` in kernel order.
    pub(crate) fn with_symbols<R>(&self, x2: &[u8], t: usize, use_them: impl FnOnce(&[u8]) -> R) -> Result<R, Error> {
        let TileShape { panels, fractals, .. } = self.geometry().tile(t);
        if let Tile::Raw(symbols) = self.weight.tile(x2, t)? {
            return Ok(use_them(symbols));
        }
        SYMBOLS.with_borrow_mut(|symbols| {
            symbols.reset(panels * fractals * FRACTAL);
            let stride = fractals * FRACTAL;
            if !decode_tile(&self.weight, self.code.as_ref(), self.kernel, x2, t, symbols, stride)? {
                return Err(refusal(&self.weight, x2, t));
            }
            Ok(use_them(symbols))
        })
    }
}

/// A panel of a tile.
struct Panel<'a> {
    /// In kernel order.
    symbols: &'a [u8],
    /// Where it begins.
    n0: usize,
    k0: usize,
}

/// Memory that several threads write to, each to other bytes of it.
pub(crate) struct Shared {
    data: *mut u8,
    len: usize,
}

// SAFETY: a pointer to bytes that whoever made it has borrowed for as long; writing through it is unsafe by itself.
unsafe impl Sync for Shared {}

impl Shared {
    /// The address of byte `at`, from where on there are `len` more.
    ///
    /// # Panics
    /// If there are not.
    fn at(&self, at: usize, len: usize) -> *mut u8 {
        assert!(at.checked_add(len).is_some_and(|end| end <= self.len), "inside of the output");
        // SAFETY: the assertion says that this is inside of the memory.
        unsafe { self.data.add(at) }
    }
}

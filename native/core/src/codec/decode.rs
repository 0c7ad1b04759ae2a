//! Scalar decoder of one tile: the reference that every other decoder is compared with.
//!
//! It trusts nothing: a tile that no encoder writes gives a reason.

use super::code::{Code, MAX_LEVELS};
use crate::geometry::{FRACTAL, GROUP};

/// Why a tile is not decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undecoded {
    /// What is wrong with it.
    Damaged(&'static str),
    /// So many bytes cannot be allocated.
    NoMemory(usize),
}

impl From<&'static str> for Undecoded {
    fn from(reason: &'static str) -> Self {
        Self::Damaged(reason)
    }
}

/// An empty vector with room for `len` elements.
fn room<T>(len: usize) -> Result<Vec<T>, Undecoded> {
    let mut vec = Vec::new();
    vec.try_reserve_exact(len).map_err(|_| Undecoded::NoMemory(len.saturating_mul(size_of::<T>())))?;
    Ok(vec)
}

/// A coded tile cut into its parts.
#[derive(Debug, Clone, Copy)]
pub struct CodedTile<'a> {
    /// Root fields: R rows of 64 bytes a fractal.
    pub roots: &'a [u8],
    /// Continuations and the padding behind them; then all that follows in `x2`, at least 64 bytes:
    /// wide loads may reach over the end.
    pub rest: &'a [u8],
    /// Bytes of `rest` that belong to the tile.
    pub len: usize,
    /// What [`Self::check`] found, if that is known.
    pub counts: Option<&'a [u16]>,
}

impl<'a> CodedTile<'a> {
    /// Cuts `x2[start..end]`, a tile with so many bytes of root fields.
    pub fn parse(x2: &'a [u8], start: usize, end: usize, roots: usize) -> Result<Self, &'static str> {
        if end - start < roots {
            return Err("is shorter than its root fields");
        }
        let (roots, rest) = x2[start..].split_at(roots);
        Ok(Self { roots, rest, len: end - start - roots.len(), counts: None })
    }

    /// Whether `used` bytes of `rest` and less than 64 bytes of padding make up the tile.
    pub fn ends_at(&self, used: usize) -> bool {
        used <= self.len && self.len - used < 64
    }

    /// Where in `rest` each level begins, and how many entries it has; the last are the escapes. `None` if they do not make up the
    /// tile, or there are more than `limit` anywhere. Inlined, so that each kernel compiles it with its own instructions.
    #[inline(always)]
    pub fn starts(&self, levels: usize, limit: usize) -> Option<Starts> {
        let first = self.rest[..self.len].first_chunk()?;
        let mut at = first.len();
        let mut count = self.counts.map_or(u16::from_le_bytes(*first), |counts| counts[0]).into();
        let mut starts = Starts::default();
        for d in 0..levels {
            starts[d] = (at, count);
            at += count.div_ceil(8);
            if count > limit || at > self.len {
                return None;
            }
            count = match self.counts {
                Some(counts) => counts[d + 1].into(),
                None => self.words(starts[d]).map(|word| word.count_ones() as usize).sum(),
            };
        }
        starts[levels] = (at, count);
        (count <= limit && self.ends_at(at + count)).then_some(starts)
    }

    /// The bits of a level that begins in `rest` and has that many entries, 64 at a time, without what lies behind them.
    #[inline(always)]
    pub fn words(&self, (start, entries): (usize, usize)) -> impl Iterator<Item = u64> {
        (0..entries).step_by(64).map(move |at| {
            let word = self.rest[start + at / 8..].first_chunk().expect("64 bytes follow every tile");
            let behind = 64usize.saturating_sub(entries - at);
            u64::from_le_bytes(*word) << behind >> behind
        })
    }

    /// Decodes into `out` (whole fractals in kernel order) and checks that everything is consumed exactly.
    pub fn decode(&self, code: &Code, out: &mut [u8]) -> Result<(), Undecoded> {
        let row = code.root_bits() * GROUP;
        let (direct, step, table) = (code.direct(), code.sum_step(), code.table());
        let mask = (1u64 << code.root_bits()) - 1;
        for (fractal, rows) in out.chunks_exact_mut(FRACTAL).zip(self.roots.chunks_exact(row)) {
            for lane in 0..GROUP {
                let field = (0..code.root_bits()).fold(0, |f, b| f | u64::from(rows[b * GROUP + lane]) << (8 * b));
                for (g, group) in fractal.chunks_exact_mut(GROUP).enumerate() {
                    group[lane] = code.root((field >> (g * code.root_bits()) & mask) as u8);
                }
            }
        }
        let mut sums = room::<u8>(out.len())?;
        sums.resize(out.len(), 0);
        let mut open = room::<usize>(out.len())?;
        open.extend((0..out.len()).filter(|&i| step > 0 && out[i] >= direct));
        let Continuations { levels, escapes } = self.continuations(code)?;
        for (entries, bits) in levels {
            if entries != open.len() {
                return Err(LEVEL_COUNT_MISMATCH.into());
            }
            let mut entry = 0..;
            open.retain(|_| entry.next().is_some_and(|i: usize| bits[i / 8] >> (i % 8) & 1 == 1));
            open.iter().for_each(|&i| sums[i] = sums[i].wrapping_add(step));
        }
        if escapes.len() != open.len() {
            return Err(LEVEL_COUNT_MISMATCH.into());
        }
        for (i, e) in open.into_iter().zip(escapes) {
            sums[i] = code.escape_base().wrapping_add(*e);
        }
        out.iter_mut().zip(sums).for_each(|(root, sum)| *root = table[usize::from(code.rank(*root, sum))]);
        Ok(())
    }

    /// Checks all that can be told without the root fields: that the counts fit, the parts fill the tile, and what is
    /// unused is zero. Kernels need no more than the counts, so this is asked for once, when a weight is loaded. Gives the number
    /// of entries of each level, and of escapes.
    pub fn check(&self, code: &Code) -> Result<Vec<u16>, &'static str> {
        let Continuations { levels, escapes } = self.continuations(code)?;
        let counts = levels.iter().map(|(entries, _)| *entries).chain([escapes.len()]);
        counts.map(|count| u16::try_from(count).map_err(|_| LEVEL_COUNT_MISMATCH)).collect()
    }

    /// Cuts the continuations into their levels.
    fn continuations(&self, code: &Code) -> Result<Continuations<'a>, &'static str> {
        let mut rest = Reader { bytes: &self.rest[..self.len], at: 0 };
        let count = rest.take(2).ok_or("ends before its continuations")?;
        let mut entries = usize::from(u16::from_le_bytes([count[0], count[1]]));
        let mut levels = Vec::with_capacity(code.levels());
        for _ in 0..code.levels() {
            let bits = rest.take(entries.div_ceil(8)).ok_or("ends within a level")?;
            if bits.last().is_some_and(|&last| entries % 8 > 0 && last >> (entries % 8) != 0) {
                return Err("has ones behind the end of a level");
            }
            levels.push((entries, bits));
            entries = bits.iter().map(|byte| byte.count_ones() as usize).sum();
        }
        let escapes = rest.take(entries).ok_or("ends within its escapes")?;
        if !self.ends_at(rest.at) || rest.bytes[rest.at..].iter().any(|&b| b != 0) {
            return Err("has padding that is not zero or too long");
        }
        Ok(Continuations { levels, escapes })
    }
}

/// Begin and number of entries of each level, and of the escapes.
pub type Starts = [(usize, usize); MAX_LEVELS + 1];

const LEVEL_COUNT_MISMATCH: &str = "has a level count mismatch";

struct Continuations<'a> {
    /// Entries, and a bit for each.
    levels: Vec<(usize, &'a [u8])>,
    /// A byte for each entry that the last level continues.
    escapes: &'a [u8],
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..)?.get(..count)?;
        self.at += count;
        Some(taken)
    }
}

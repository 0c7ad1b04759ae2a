//! The parameters of a code and how they are chosen from a histogram.

use super::{Histogram, Profile};
use crate::error::Error;

/// Continuation levels at the most.
pub const MAX_LEVELS: usize = 12;

/// Ranks with a code word of their own, at the most.
const MAX_CAPACITY: usize = 255;

/// Ranks that have an entry in the look-up table of a decoder; those above share them.
const HALF: usize = 128;

/// Masks that are tried where more symbols occur than the table has entries. Symbols around 128, as those of int8 weights
/// are, keep their order with the first: 64 to 191 come before the others.
const MASKS: [u8; 2] = [0x40, 0x80];

/// A code: root width, step, levels, mask, and the symbols by rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Code {
    root_bits: u8,
    step: u8,
    levels: u8,
    mask: u8,
    ranks: Vec<u8>,
}

impl Code {
    /// Checks what a header declares: 1 ≤ R ≤ 7, A ≤ 2^R, D ≤ 12, T + A·D ≤ 255, 1 to 128 ranks, no two of them the same or
    /// made the same by the mask; levels only where there is a step.
    pub fn new(root_bits: u8, step: u8, levels: u8, mask: u8, ranks: Vec<u8>) -> Result<Self, Error> {
        let bad = |what: String| Err(Error::Header(what));
        if !(1..=7).contains(&root_bits) {
            return bad(format!("root width {root_bits} is not in 1..=7"));
        }
        if u32::from(step) > 1 << root_bits {
            return bad(format!("step {step} exceeds the {} root values", 1 << root_bits));
        }
        if usize::from(levels) > MAX_LEVELS || (levels > 0 && step == 0) {
            return bad(format!("{levels} levels with step {step}"));
        }
        let code = Self { root_bits, step, levels, mask, ranks };
        if code.capacity() > MAX_CAPACITY {
            return bad(format!("a code that reaches {} ranks", code.capacity()));
        }
        if !(1..=HALF).contains(&code.ranks.len()) {
            return bad(format!("{} stored ranks are not in 1..={HALF}", code.ranks.len()));
        }
        let mut first_half = FirstHalf::new(mask);
        if let Some(s) = code.ranks.iter().find(|&&s| !first_half.offer(s)) {
            return bad(format!("symbol {s} has two ranks"));
        }
        Ok(code)
    }

    /// The cheapest code for `histogram` that `profile` admits; `None` if nothing beats 8 bits or there is
    /// nothing to code.
    pub fn choose(histogram: &Histogram, profile: Profile) -> Option<Self> {
        let used = histogram.ranked();
        if used.is_empty() {
            return None;
        }
        let masks = if used.len() <= HALF { &[0][..] } else { &MASKS };
        let codes = masks.iter().filter_map(|&mask| Self::choose_with(mask, &used, histogram, profile));
        codes.min_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, code)| code)
    }

    /// The cheapest code with this mask, and what it costs; `used` are the symbols by falling frequency.
    fn choose_with(mask: u8, used: &[u8], histogram: &Histogram, profile: Profile) -> Option<(f64, Self)> {
        let mut first_half = FirstHalf::new(mask);
        used.iter().for_each(|&s| {
            first_half.offer(s);
        });
        let ranked = first_half.ranks;
        let total = histogram.total() as f64;
        // rarer[i]: share of the symbols whose rank is i or more.
        let mut rarer = [0.0; 257];
        for (i, &s) in table(&ranked, mask).iter().enumerate().rev() {
            let count = if i >= HALF && mask == 0 { 0 } else { histogram.counts()[usize::from(s)] };
            rarer[i] = rarer[i + 1] + count as f64 / total;
        }
        let share_from = |rank: usize| rarer[rank];
        // What a level, and an entry of one, take to decode, in bits that they must save at least.
        let (max_levels, cost_of_a_level, cost_of_an_entry) = match profile {
            Profile::Fast => (0, 0.0, 0.0),
            Profile::Balanced => (8, 0.01, 0.1),
            Profile::Small => (MAX_LEVELS, 0.0, 0.0),
        };
        let mut best: Option<(f64, u8, u8, u8)> = None;
        for root_bits in 1..=7u8 {
            for step in 0..=1usize << root_bits {
                let direct = (1usize << root_bits) - step;
                let mut bits = f64::from(root_bits);
                for levels in 0..=max_levels {
                    let reach = direct + step * levels;
                    if reach > MAX_CAPACITY || (levels > 0 && step == 0) {
                        break;
                    }
                    let escapes = share_from(reach);
                    // A code without a step cannot mark escapes.
                    if step > 0 || escapes == 0.0 {
                        let cost = bits + 8.0 * escapes;
                        let entries = bits - f64::from(root_bits);
                        let weighed = cost + cost_of_a_level * levels as f64 + cost_of_an_entry * entries;
                        if cost < 8.0 && best.is_none_or(|b| weighed < b.0) {
                            best = Some((weighed, root_bits, step as u8, levels as u8));
                        }
                    }
                    bits += escapes;
                }
            }
        }
        let (weighed, root_bits, step, levels) = best?;
        let mut code = Self { root_bits, step, levels, mask, ranks: Vec::new() };
        code.ranks = ranked;
        // Escapes need no order, but they need a rank: without a mask only stored symbols are sure to have one.
        if mask != 0 {
            code.ranks.truncate(code.capacity());
        }
        Some((weighed, code))
    }

    /// R: bits of the root field.
    pub fn root_bits(&self) -> usize {
        usize::from(self.root_bits)
    }
    /// A: root values that are continued, and what each continuation bit adds.
    pub fn step(&self) -> u8 {
        self.step
    }
    /// D: continuation levels.
    pub fn levels(&self) -> usize {
        usize::from(self.levels)
    }
    /// T: root values below it end the code word.
    pub fn direct(&self) -> u8 {
        ((1u16 << self.root_bits) - u16::from(self.step)) as u8
    }
    /// T + A·D: ranks that have a code word.
    pub fn capacity(&self) -> usize {
        usize::from(self.direct()) + usize::from(self.step) * self.levels()
    }
    /// What the continuations of an escape add besides its own byte, which takes the place of the last step.
    pub fn escape_base(&self) -> u8 {
        self.levels.saturating_sub(1).wrapping_mul(self.step)
    }
    /// M: what the symbols of ranks r and r + 128 differ by, in the sense of exclusive or; 0 if only ranks below 128 occur.
    pub fn mask(&self) -> u8 {
        self.mask
    }
    /// Symbols by rank.
    pub fn ranks(&self) -> &[u8] {
        &self.ranks
    }

    /// The symbol of each rank.
    pub fn table(&self) -> [u8; 256] {
        table(&self.ranks, self.mask)
    }
}

/// The symbol of each rank. The first 128 ranks are those that are stored, then others by their distance from the first, the
/// smaller first. Rank r + 128 belongs to the symbol of rank r with the bits of the mask turned over, so that a decoder
/// looks up seven bits of a rank, and the eighth adds the mask.
fn table(stored: &[u8], mask: u8) -> [u8; 256] {
    let mut first_half = FirstHalf::new(mask);
    let mut others: Vec<u8> = (0..=255).collect();
    others.sort_by_key(|s| s.abs_diff(stored[0]));
    for &s in stored.iter().chain(&others) {
        first_half.offer(s);
    }
    let ranks = first_half.ranks;
    std::array::from_fn(|rank| ranks[rank % HALF] ^ if rank < HALF { 0 } else { mask })
}

/// Symbols of the first ranks: at most 128, and of two that the mask turns into each other one.
struct FirstHalf {
    ranks: Vec<u8>,
    mask: u8,
    taken: [bool; 256],
}

impl FirstHalf {
    fn new(mask: u8) -> Self {
        Self { ranks: Vec::with_capacity(HALF), mask, taken: [false; 256] }
    }

    /// Gives the symbol the next rank; whether there is one for it.
    fn offer(&mut self, symbol: u8) -> bool {
        let free = self.ranks.len() < HALF && !self.taken[usize::from(symbol)];
        if free {
            self.taken[usize::from(symbol)] = true;
            self.taken[usize::from(symbol ^ self.mask)] = true;
            self.ranks.push(symbol);
        }
        free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_encoder_writes_is_refused() {
        let ok = |r, a, d, n: u8| Code::new(r, a, d, 0, (0..n).collect()).is_ok();
        assert!(ok(5, 12, 4, 68));
        assert!(ok(7, 0, 0, 128));
        for (r, a, d, n) in [
            (0, 1, 0, 1),
            (8, 1, 0, 1),
            (2, 5, 0, 1),
            (3, 0, 1, 1),
            (5, 12, 13, 1),
            (7, 60, 4, 1),
            (2, 1, 0, 0),
            (7, 100, 2, 129),
        ] {
            assert!(!ok(r, a, d, n), "{r} {a} {d} {n}");
        }
        assert!(Code::new(3, 1, 0, 0, vec![1, 1]).is_err());
        assert!(Code::new(3, 1, 0, 0, vec![1, 129]).is_ok());
        assert!(Code::new(3, 1, 0, 0x80, vec![1, 129]).is_err());
    }

    #[test]
    fn symbols_without_a_rank_follow_by_distance() {
        let table = Code::new(3, 2, 0, 0x80, vec![5, 4, 200]).unwrap().table();
        assert_eq!(table[..8], [5, 4, 200, 6, 3, 7, 2, 8]);
        // 72 is not among the first, for 200 has its place.
        assert_eq!(table[126..132], [126, 127, 133, 132, 72, 134]);
        let table = Code::new(3, 2, 0, 0, vec![5, 4, 200]).unwrap().table();
        assert_eq!(table[..128], table[128..]);
        assert_eq!(table[127], 126);
    }

    #[test]
    fn every_symbol_has_a_rank_where_there_is_a_mask() {
        for mask in MASKS {
            for first in [0, 77, 128, 255] {
                let mut table = Code::new(1, 1, 0, mask, vec![first]).unwrap().table();
                table.sort_unstable();
                assert!(table.iter().enumerate().all(|(i, &s)| i == usize::from(s)), "{mask} {first}");
            }
        }
        // The order of distance from 128 is kept.
        let table = Code::new(1, 1, 0, 0x40, vec![128]).unwrap().table();
        assert!(table.iter().take(255).zip(&table[1..]).all(|(a, b)| a.abs_diff(128) <= b.abs_diff(128)));
    }

    #[test]
    fn uniform_noise_has_no_code() {
        let all: Vec<u8> = (0..=255).collect();
        for profile in [Profile::Fast, Profile::Balanced, Profile::Small] {
            assert_eq!(Code::choose(&Histogram::of(&all), profile), None);
        }
        assert_eq!(Code::choose(&Histogram::default(), Profile::Small), None);
    }

    #[test]
    fn two_symbols_take_one_bit() {
        let code = Code::choose(&Histogram::of(&[3, 3, 200]), Profile::Small).unwrap();
        assert_eq!((code.root_bits(), code.ranks()), (1, &[3u8, 200][..]));
    }
}
